// SPDX-License-Identifier: Apache-2.0

//go:build systemd && engines

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The tests whose names begin with TestEngines run in a guest that has container engines:
// go run ./test/vm -systemd -engines -tests. Nothing can be pulled there: an image is made
// of a directory with busybox. The unit attaches all containers, and no engine knows of it.

// engineStarts returns how many containers each engine starts.
func engineStarts(t *testing.T) int {
	t.Helper()
	text := os.Getenv("VPROCFS_STARTS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// engine is a program that starts containers of 64 MiB.
type engine struct {
	name string
	// version is a command that prints a line with the version.
	version []string
	// inTime says that it waits between create and start, so that no program may see
	// the host.
	inTime bool
	// prepare returns a function that starts the i-th container, whose program is
	// firstRead, and returns what it has printed.
	prepare func(t *testing.T) (start func(i int) string)
}

// output returns what a command prints.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, failure(err))
	}
	return string(out)
}

const image = "vprocfs-busybox"

// startDocker starts Docker without a network, with an image of busybox.
func startDocker(t *testing.T) {
	t.Helper()
	const config = `{"bridge": "none", "iptables": false, "ip6tables": false, "storage-driver": "vfs", "features": {"cdi": true},
		"runtimes": {"vprocfs": {"path": "/usr/local/bin/vprocfs-runc"}}}`
	if err := os.MkdirAll("/etc/docker", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/etc/docker/daemon.json", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "start", "containerd", "docker")
	if exec.Command("docker", "image", "inspect", image).Run() == nil {
		return
	}
	tar := filepath.Join(t.TempDir(), "root.tar")
	output(t, "tar", "-C", busyboxRoot(t), "-cf", tar, ".")
	output(t, "docker", "import", tar, image)
}

// lxcReads returns a function that starts a container of LXC with 64 MiB and further lines
// of configuration, and returns what its init, which is firstRead, has printed.
func lxcReads(t *testing.T, lines string) func(i int) string {
	t.Helper()
	root := busyboxRoot(t)
	config := filepath.Join(t.TempDir(), "config")
	text := "lxc.rootfs.path = dir:" + root + "\nlxc.uts.name = vprocfs\nlxc.net.0.type = empty\nlxc.mount.auto = proc:mixed sys:ro\n" +
		"lxc.apparmor.profile = unconfined\nlxc.cgroup2.memory.max = 64M\n" + lines +
		"lxc.init.cmd = /bin/busybox sh -c \"" + strings.Join(firstRead, " ") + " >/tmp/out\"\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(i int) string {
		output(t, "lxc-start", "--foreground", "--name", fmt.Sprintf("vprocfs-%d", i), "--lxcpath", filepath.Dir(config), "--rcfile", config)
		return readFile(t, root+"/tmp/out")
	}
}

// engines returns the engines of Debian.
func engines() []engine {
	twoStepsOf := func(runtime string) func(t *testing.T) func(int) string {
		return func(t *testing.T) func(int) string {
			start := twoSteps(t, runtime)
			return func(int) string { return start() }
		}
	}
	atOnceOf := func(runtime string) func(t *testing.T) func(int) string {
		return func(t *testing.T) func(int) string {
			at := writeBundle(t, "", fmt.Sprintf("vprocfs-once-%s-%d", runtime, os.Getpid()), "")
			b := readConfig(t, at)
			b.Process.Args = firstRead
			writeConfig(t, at, b)
			return func(int) string { return runBundle(t, runtime, at) }
		}
	}
	return []engine{
		{"Podman (crun)", []string{"podman", "--version"}, true, func(t *testing.T) func(int) string {
			p := newPodman(t)
			return func(int) string {
				out, err := p.run(nil, nil, firstRead...).Output()
				if err != nil {
					t.Fatal(failure(err))
				}
				return string(out)
			}
		}},
		{"runc create, start", []string{"runc", "--version"}, true, twoStepsOf("runc")},
		{"crun create, start", []string{"crun", "--version"}, true, twoStepsOf("crun")},
		{"runc run", []string{"runc", "--version"}, false, atOnceOf("runc")},
		{"crun run", []string{"crun", "--version"}, false, atOnceOf("crun")},
		{"LXC", []string{"lxc-start", "--version"}, false, func(t *testing.T) func(int) string {
			return lxcReads(t, "")
		}},
		{"systemd-nspawn", []string{"systemd-nspawn", "--version"}, false, func(t *testing.T) func(int) string {
			root := busyboxRoot(t)
			if err := os.Mkdir(root+"/usr", 0o755); err != nil {
				t.Fatal(err)
			}
			return func(i int) string {
				return output(t, "systemd-nspawn", append([]string{"--quiet", "--pipe", "--register=no", "--property=MemoryMax=64M", "--machine",
					fmt.Sprintf("vprocfs-%d", i), "--directory", root}, firstRead...)...)
			}
		}},
		{"Docker", []string{"docker", "--version"}, true, func(t *testing.T) func(int) string {
			startDocker(t)
			return func(int) string {
				return output(t, "docker", append([]string{"run", "--rm", "--network", "none", "--memory", "64m", image}, firstRead...)...)
			}
		}},
		{"containerd (ctr)", []string{"containerd", "--version"}, true, func(t *testing.T) func(int) string {
			startDocker(t)
			archive := filepath.Join(t.TempDir(), "image.tar")
			output(t, "docker", "save", "-o", archive, image)
			output(t, "ctr", "image", "import", "--snapshotter", "native", archive)
			return func(i int) string {
				return output(t, "ctr", append([]string{"run", "--rm", "--snapshotter", "native", "--memory-limit", strconv.Itoa(64 << 20),
					"docker.io/library/" + image + ":latest", fmt.Sprintf("vprocfs-%d", i)}, firstRead...)...)
			}
		}},
	}
}

// TestEnginesFirstReads prints how many programs' first read saw the host. Of those
// engines that wait between create and start it should be none: a tenth is a failure,
// because a guest may stand still for seconds.
func TestEnginesFirstReads(t *testing.T) {
	startUnit(t)
	var table strings.Builder
	for _, e := range engines() {
		t.Run(strings.ReplaceAll(e.name, " ", "_"), func(t *testing.T) {
			version := regexp.MustCompile(`\d+\.\d+(\.\d+)?|\b\d{3}\b`).FindString(output(t, e.version[0], e.version[1:]...))
			start := e.prepare(t)
			begin, starts, done, late := time.Now(), engineStarts(t), 0, 0
			// If a start fails, the row has those before it.
			defer func() { fmt.Fprintf(&table, "| %s %s | %d | %d |\n", e.name, version, done, late) }()
			for i := range starts {
				if !ownMemory(t, start(i)) {
					late++
				}
				done++
				// A run that is cut short has said what it saw.
				t.Logf("%d of %d programs saw the host, %.0f s", late, done, time.Since(begin).Seconds())
			}
			if e.inTime && late*10 > starts {
				t.Error("that is more than a tenth")
			}
		})
	}
	t.Logf("| engine | starts | saw the host |\n|---|---|---|\n%s", &table)
	if log := journal(t, unitName); strings.Contains(log, "is not attached") {
		t.Errorf("the daemon warns:\n%s", log)
	}
}

// TestEnginesAttachWhatRunsAndWhatRestarts: a container of Docker that runs when the
// daemon starts, and the same one after `docker restart`.
func TestEnginesAttachWhatRunsAndWhatRestarts(t *testing.T) {
	startUnit(t)
	startDocker(t)
	systemctl(t, "stop", unitName)
	const name = "vprocfs-runs"
	output(t, "docker", "run", "--detach", "--name", name, "--network", "none", "--memory", "64m", image, "/bin/busybox", "sleep", "100000")
	t.Cleanup(func() { output(t, "docker", "rm", "--force", name) })
	sees := func() bool {
		return ownMemory(t, output(t, "docker", append([]string{"exec", name}, firstRead...)...))
	}
	if sees() {
		t.Fatal("without a daemon it sees itself: the test tests nothing")
	}
	startUnit(t)
	waitFor(t, "the container that runs to see itself", sees)
	for range 3 {
		output(t, "docker", "restart", "--time", "0", name)
		waitFor(t, "the restarted container to see itself", sees)
	}
	systemctl(t, "restart", unitName)
	if !sees() {
		t.Error("after a restart of the daemon it sees the host")
	}
}
