// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// atOnce is more than a start without the daemon takes on a loaded machine: the hook waits
// a second for an answer. A hook without that limit would wait as long as the daemon is
// stopped.
const atOnce = 30 * time.Second

// declaredWays returns the command lines that start a container of 64 MiB by the ways that
// a runtime is configured for, by their names. The container says "ready" and is a shell.
func declaredWays(t *testing.T, binary, dir string) map[string]func() *exec.Cmd {
	t.Helper()
	hooksDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(hooksDir, "vprocfs.json"), []byte(hooksFile(t, binary, dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	installCDI(t, binary, dir)
	p := newPodman(t)
	program := []string{"/bin/busybox", "sh", "-c", "echo ready; exec busybox sh"}
	bundled := func(b *bundle) (at, name string) {
		name = fmt.Sprintf("vprocfs-failopen-%d-%d", os.Getpid(), time.Now().UnixNano())
		at = writeBundle(t, "", name, "")
		config := readConfig(t, at)
		config.Process.Args, config.Hooks = program, b.Hooks
		writeConfig(t, at, config)
		return at, name
	}
	return map[string]func() *exec.Cmd{
		"runc, hook": func() *exec.Cmd {
			script := hookFor("if [ -x /usr/bin/vprocfs ]; then exec /usr/bin/vprocfs hook; fi", binary, dir)
			at, name := bundled(&bundle{Hooks: hooks{"createRuntime": {{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}}})
			return exec.Command("runc", "--root", t.TempDir(), "run", "--bundle", at, name)
		},
		"runc, wrapper": func() *exec.Cmd {
			at, name := bundled(&bundle{})
			return exec.Command("vprocfs", "runtime", "--mount", dir, "--runtime", "runc", "--", "--root", t.TempDir(), "run", "--bundle", at, name)
		},
		"podman, hooks.d": func() *exec.Cmd {
			return p.run([]string{"--hooks-dir", hooksDir}, []string{"--interactive"}, program...)
		},
		"podman, CDI": func() *exec.Cmd {
			return p.run(nil, []string{"--interactive", "--device", "vprocfs.io/view=all"}, program...)
		},
	}
}

// family returns a process and all that descend from it, ancestors first.
func family(pid int) []int {
	all := []int{pid}
	for _, child := range children(pid) {
		all = append(all, family(child)...)
	}
	return all
}

// TestContainersStartAtOnceWithoutTheDaemon by every declared way. They have the kernel's
// files until a daemon that attaches all containers serves.
func TestContainersStartAtOnceWithoutTheDaemon(t *testing.T) {
	need(t, "runc", "runc")
	start := func(t *testing.T, binary, dir string) (all []*container) {
		t.Helper()
		for name, command := range declaredWays(t, binary, dir) {
			began := time.Now()
			c := startSubject(t, command(), "ready")
			took := time.Since(began)
			t.Logf("%s: %.2f s", name, took.Seconds())
			if took > atOnce {
				t.Errorf("%s: the start took %s", name, took)
			}
			all = append(all, c)
		}
		return all
	}
	wantAll := func(t *testing.T, all []*container, want func(*testing.T, *container)) {
		t.Helper()
		for _, c := range all {
			want(t, c)
		}
	}
	t.Run("it serves", func(t *testing.T) {
		dir, _ := serve(t)
		wantAll(t, start(t, vprocfsPath(t), dir), func(t *testing.T, c *container) {
			if !ownMemory(t, c.sh(t, "busybox cat /proc/meminfo")) {
				t.Error("a container sees the host")
			}
		})
	})
	t.Run("it is stopped", func(t *testing.T) {
		d := startAttaching(t, "vprocfs")
		stopped := family(d.cmd.Process.Pid)
		for _, pid := range stopped {
			unix.Kill(pid, unix.SIGSTOP)
		}
		goOn := func() {
			slices.Reverse(stopped)
			for _, pid := range stopped {
				unix.Kill(pid, unix.SIGCONT)
			}
		}
		t.Cleanup(goOn)
		all := start(t, vprocfsPath(t), d.dir)
		wantAll(t, all, wantHost)
		goOn()
		wantAll(t, all, waitForView)
	})
	t.Run("it is dead", func(t *testing.T) {
		dead := startAttaching(t, "vprocfs")
		killDaemon(dead.cmd)
		all := start(t, vprocfsPath(t), dead.dir)
		wantAll(t, all, wantHost)
		startAttachingAt(t, dead.dir, "vprocfs")
		wantAll(t, all, waitForView)
	})
	t.Run("it is not installed", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "none")
		all := start(t, dir+"/vprocfs", dir)
		wantAll(t, all, wantHost)
		startAttaching(t, "vprocfs")
		wantAll(t, all, waitForView)
	})
}
