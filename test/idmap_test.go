// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mapping makes a user namespace whose root is user 100000 of the host, and keeps its
// descriptor open until the test ends.
func mapping(t *testing.T) (path string) {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100_000, Size: 65_536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user"
}

// mappedContainer starts a container of 64 MiB whose root is user 100000 of the host, and
// a shell in it that the test talks to.
func mappedContainer(t *testing.T) *container {
	t.Helper()
	g := newGroup(t)
	g.limitMemory(t, 64)
	// The namespaces after that of users belong to it.
	script := g.enter() + ` && exec nsenter --user="$0" unshare --mount --propagation private --pid --fork sh -euc 'mount -t proc proc /proc; echo ready; exec sh'`
	return startSubject(t, exec.Command("sh", "-euc", script, mapping(t)), "ready")
}

// hasIDMap reports whether the kernel has idmapped mounts of FUSE.
func hasIDMap(t *testing.T) bool { return kernelIs(t, 6, 12) }

func TestIDMapNeedsAKernelThatHasIt(t *testing.T) {
	if hasIDMap(t) {
		serve(t, "--idmap")
		return
	}
	dir := t.TempDir()
	_, stderr, status := vprocfs(t, "serve", "--idmap", dir)
	if want := "vprocfs: serve: mount " + dir + ": idmapped mounts of FUSE need Linux 6.12\n"; status != 1 || stderr != want {
		t.Errorf("exit status %d, %q, want %q", status, stderr, want)
	}
	if isMounted(t, dir) {
		t.Error("it is mounted")
	}
}

// TestAttachIDMapNeedsADaemonThatAllowsIt, on all kernels. Nothing is attached otherwise.
func TestAttachIDMapNeedsADaemonThatAllowsIt(t *testing.T) {
	dir, _ := serve(t)
	c := mappedContainer(t)
	out, stderr, status := attach(t, dir, c, "--idmap")
	if want := dir + ": the daemon allows no idmapped mounts: it needs `vprocfs serve --idmap` and Linux 6.12\n"; status != 1 || out != "" || !strings.HasSuffix(stderr, want) {
		t.Errorf("exit status %d\n%s%s", status, out, stderr)
	}
	if mounts := mountsOf(t, c); strings.Contains(mounts, "fuse.vprocfs") {
		t.Errorf("attached:\n%s", mounts)
	}
}

func TestAttachIDMapShowsFilesOfTheContainersRoot(t *testing.T) {
	if !hasIDMap(t) {
		t.Skip("not run: idmapped mounts of FUSE need Linux 6.12; the newest guest of make test-vm-gate has them (IDMap)")
	}
	dir, _ := serve(t, "--idmap")
	for _, tt := range []struct {
		flag, owner, slabinfo string
	}{{"", "65534", "Permission denied"}, {"--idmap", "0", "slabinfo - version"}} {
		c := mappedContainer(t)
		var flags []string
		if tt.flag != "" {
			flags = append(flags, tt.flag)
		}
		if out, stderr, status := attach(t, dir, c, flags...); status != 0 {
			t.Fatalf("attach %s: exit status %d\n%s%s", tt.flag, status, out, stderr)
		}
		if got := memTotal(t, c.sh(t, "busybox cat /proc/meminfo")); got != 64 {
			t.Errorf("attach %s: MemTotal %d MiB, want 64", tt.flag, got)
		}
		if got := strings.TrimSpace(c.sh(t, "stat -c %u /proc/meminfo")); got != tt.owner {
			t.Errorf("attach %s: the owner is %s, want %s", tt.flag, got, tt.owner)
		}
		if got := c.sh(t, "busybox cat /proc/slabinfo 2>&1 || :"); !strings.Contains(got, tt.slabinfo) {
			t.Errorf("attach %s: slabinfo: %q, want %q", tt.flag, got, tt.slabinfo)
		}
		// The host's own file: the kernel's /sys refuses it to this root as well.
		if got := c.sh(t, "busybox cat "+cpuDir+"/cpu0/crash_notes 2>&1 || :"); !strings.Contains(got, "Permission denied") && !strings.Contains(got, "No such file") {
			t.Errorf("attach %s: crash_notes: %q", tt.flag, got)
		}
	}
}

// TestIDMapChecksPermissions: the kernel does so then, and does not tell the daemon the user.
func TestIDMapChecksPermissions(t *testing.T) {
	if !hasIDMap(t) {
		t.Skip("not run: idmapped mounts of FUSE need Linux 6.12; the newest guest of make test-vm-gate has them (IDMap)")
	}
	dir, _ := serve(t, "--idmap")
	c := plainContainer(t, "")
	wantAttached(t, dir, c, "attached")
	wantView(t, c)
	const nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups busybox cat "
	for path, want := range map[string]string{
		"/proc/slabinfo":             "Permission denied",
		cpuDir + "/cpu0/crash_notes": "Permission denied",
		"/proc/uptime":               "",
		cpuDir + "/online":           "",
	} {
		if got := c.sh(t, nobody+path+" 2>&1 >/dev/null || :"); want == "" && got != "" || !strings.Contains(got, want) && !strings.Contains(got, "No such file") {
			t.Errorf("%s as nobody: %q, want %q", path, got, want)
		}
	}
	if got := c.sh(t, "busybox cat /proc/slabinfo 2>&1"); !strings.Contains(got, "slabinfo - version") {
		t.Errorf("slabinfo as root: %q", got)
	}
	if got := c.sh(t, "(echo 1 >/proc/uptime) 2>&1 || :"); !strings.Contains(got, "Read-only file system") {
		t.Errorf("writing: %q", got)
	}
}
