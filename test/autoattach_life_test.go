// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestContainersInContainersAreAttached: a runtime that runs in a container starts
// another.
func TestContainersInContainersAreAttached(t *testing.T) {
	startAttaching(t, "vprocfs")
	need(t, "runc", "runc")
	inner := writeBundle(t, "", fmt.Sprintf("vprocfs-inner-%d", os.Getpid()), "")
	b := readConfig(t, inner)
	b.Process.Args = []string{"/bin/busybox", "sh", "-c", "echo ready; exec busybox sh"}
	writeConfig(t, inner, b)
	outer := writeBundle(t, "", fmt.Sprintf("vprocfs-outer-%d", os.Getpid()), "")
	b = readConfig(t, outer)
	// The root of the outer one is that of the host, which has runc.
	b.Root.Path = hostRoot(t)
	b.Mounts = append(b.Mounts, bindMount{"/sys/fs/cgroup", "bind", "/sys/fs/cgroup", []string{"rbind", "rw"}})
	b.Process.Env = []string{"PATH=" + os.Getenv("PATH")}
	b.Process.Args = []string{"runc", "--root", t.TempDir(), "run", "--bundle", inner, "inner"}
	b.Process.Capabilities = make(map[string][]string)
	for _, set := range []string{"bounding", "effective", "permitted"} {
		b.Process.Capabilities[set] = []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_SYS_CHROOT", "CAP_SETPCAP", "CAP_SETUID", "CAP_SETGID"}
	}
	writeConfig(t, outer, b)
	c := startSubject(t, exec.Command("runc", "--root", t.TempDir(), "run", "--bundle", outer, fmt.Sprintf("outer-%d", os.Getpid())), "ready")
	// What it sees depends on where the inner runc may set limits.
	waitFor(t, "the inner container to have the files", func() bool {
		return strings.Contains(c.sh(t, "busybox cat /proc/mounts"), " /proc/meminfo fuse.vprocfs ")
	})
}

// hostRoot returns a directory on which the root file system of the host is mounted, as
// pivot_root(2) wants it.
func hostRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("/", dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestRestartedContainerIsAttachedAgain: its cgroup, its name and its root are the same,
// and its mount namespace may have the inode number of the former one.
func TestRestartedContainerIsAttachedAgain(t *testing.T) {
	startAttaching(t, "vprocfs")
	for _, runtime := range ociRuntimes {
		t.Run(runtime, func(t *testing.T) {
			need(t, runtime, runtime)
			id := fmt.Sprintf("vprocfs-again-%s-%d", runtime, os.Getpid())
			at, state := writeBundle(t, "", id, ""), t.TempDir()
			b := readConfig(t, at)
			b.Process.Args = []string{"/bin/busybox", "sh", "-c", "echo ready; exec busybox sh"}
			writeConfig(t, at, b)
			for range 5 {
				c := startSubject(t, ociCommand(t, runtime, state, "run", "--bundle", at, id), "ready")
				waitForView(t, c)
				c.in.Close()
				c.cmd.Wait()
			}
		})
	}
}

// TestViewOffWinsOverTheWatch: the container is attached, and reads the kernel's files.
func TestViewOffWinsOverTheWatch(t *testing.T) {
	startAttaching(t, "vprocfs")
	c := runtimeContainer(t, "runc", "")
	waitForView(t, c)
	policy(t, "set", c, "view=off")
	wantHost(t, c)
	policy(t, "unset", c, "view")
	wantView(t, c)
}
