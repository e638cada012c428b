// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// killWholly ends all processes of a daemon at once, so that nobody is left to
// start another.
func (d *daemon) killWholly(t *testing.T) {
	t.Helper()
	all := []int{d.cmd.Process.Pid}
	for i := 0; i < len(all); i++ {
		unix.Kill(all[i], unix.SIGSTOP) // it starts no more
		all = append(all, children(all[i])...)
	}
	// The children first: when their parent ends the kernel lets them go on, for
	// it continues what is stopped in a process group that is orphaned.
	for _, pid := range slices.Backward(all) {
		unix.Kill(pid, unix.SIGKILL)
	}
	d.cmd.Wait()
}

// deadMount starts a daemon on a directory of its own, which the test is to kill.
func deadMount(t *testing.T) (dir string, d *daemon) {
	t.Helper()
	dir = t.TempDir()
	d = startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	return dir, d
}

// wantDead checks that the container's files are those of a dead daemon.
func wantDead(t *testing.T, c *container) {
	t.Helper()
	waitFor(t, "the mount to be dead", func() bool {
		return strings.Contains(c.sh(t, "busybox cat /proc/uptime 2>&1 || true"), "not connected")
	})
}

// heal runs `vprocfs heal` and returns the lines about a container, and those
// about the daemon. Others may be about what else runs on the machine.
func heal(t *testing.T, dir string, c *container, flags ...string) (lines []string) {
	t.Helper()
	out, stderr, _ := vprocfs(t, append([]string{"heal", "--mount", dir}, flags...)...)
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", c.init))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out + stderr) {
		if strings.HasPrefix(line, namespace+" ") || strings.HasPrefix(line, "vprocfs: heal: ") && !strings.HasSuffix(line, " not healed\n") {
			lines = append(lines, line)
		}
	}
	return lines
}

// wantHealed heals, and checks that the container then sees its own numbers, and
// that there is nothing left to heal.
func wantHealed(t *testing.T, dir string, c *container) {
	t.Helper()
	mounts := mountsOf(t, c)
	would := heal(t, dir, c, "--dry-run")
	if now := mountsOf(t, c); now != mounts {
		t.Errorf("a dry run has changed the mounts from\n%sto\n%s", mounts, now)
	}
	done := heal(t, dir, c)
	if len(would) != 1 || len(done) != 1 || strings.Contains(done[0], "failed") ||
		strings.ReplaceAll(would[0], "would be ", "") != done[0] {
		t.Errorf("a dry run says\n%sand heal\n%s", would, done)
	}
	for line := range strings.Lines(mounts) {
		if at := strings.Fields(line)[4]; len(done) > 0 && strings.Contains(line, " - fuse.") && !strings.Contains(done[0], " "+at) {
			t.Errorf("%s is not healed: %s", at, done)
		}
	}
	wantView(t, c)
	mounts = mountsOf(t, c)
	if again := heal(t, dir, c); len(again) != 0 {
		t.Errorf("a second heal says %s", again)
	}
	if now := mountsOf(t, c); now != mounts {
		t.Errorf("a second heal has changed the mounts from\n%sto\n%s", mounts, now)
	}
	wantView(t, c)
}

func TestHealRepairsRunningContainers(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, dir string) *container{
		"vprocfs run": func(t *testing.T, dir string) *container {
			return startContainer(t, "--mount", dir, "--memory", "64M", "--cpus", "0.5")
		},
		"runc": func(t *testing.T, dir string) *container { return runtimeContainer(t, "runc", dir) },
		"crun": func(t *testing.T, dir string) *container { return runtimeContainer(t, "crun", dir) },
		"attached": func(t *testing.T, dir string) *container {
			c := plainContainer(t, "")
			wantAttached(t, dir, c, "attached")
			return c
		},
		"attached, in a user namespace": func(t *testing.T, dir string) *container {
			c := plainContainer(t, "", "--user", "--map-root-user")
			wantAttached(t, dir, c, "attached")
			return c
		},
		"shared in itself": func(t *testing.T, dir string) *container {
			c := plainContainer(t, "mount --make-rshared /")
			wantAttached(t, dir, c, "attached")
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, d := deadMount(t)
			c := start(t, dir)
			pids := children(c.init)
			wantView(t, c)
			d.killWholly(t)
			wantDead(t, c)
			if lines := heal(t, dir, c); len(lines) != 1 || !strings.Contains(lines[0], "not connected") {
				t.Errorf("without a daemon heal says %s", lines)
			}
			startDaemon(t, dir, nil, "serve", dir).line(t)
			wantDead(t, c)
			wantHealed(t, dir, c)
			if now := children(c.init); fmt.Sprint(now) != fmt.Sprint(pids) {
				t.Errorf("the container's processes were %v and are %v", pids, now)
			}
			if n := strings.Count(mountsOf(t, c), " /proc/uptime r"); n != 1 {
				t.Errorf("%d mounts on /proc/uptime", n)
			}
		})
	}
}

// TestAttachReplacesADeadMount is for a container that heal is not to touch alone.
func TestAttachReplacesADeadMount(t *testing.T) {
	dir, d := deadMount(t)
	c := startContainer(t, "--mount", dir, "--memory", "64M", "--cpus", "0.5")
	d.killWholly(t)
	wantDead(t, c)
	startDaemon(t, dir, nil, "serve", dir).line(t)
	wantAttached(t, dir, c, "replaced")
	wantView(t, c)
	wantAttached(t, dir, c, "already attached")
}

// TestHealCoversALockedMount has a container make one of its own, in a user
// namespace, which the kernel lets nobody take a mount from.
func TestHealCoversALockedMount(t *testing.T) {
	dir, d := deadMount(t)
	c := startContainer(t, "--mount", dir, "--memory", "64M", "--cpus", "0.5")
	inner := t.TempDir() + "/pid"
	c.sh(t, "unshare --user --map-root-user --mount sh -c 'echo $$; while sleep 1; do :; done' >"+inner+" & until [ -s "+inner+" ]; do sleep 0.1; done")
	inside := children(children(c.init)[0])
	if len(inside) != 1 {
		t.Fatalf("processes of the container's shell: %v", inside)
	}
	d.killWholly(t)
	wantDead(t, c)
	startDaemon(t, dir, nil, "serve", dir).line(t)
	n := &container{init: inside[0]}
	if done := heal(t, dir, n); len(done) != 1 || strings.Contains(done[0], "failed") {
		t.Errorf("heal: %s", done)
	}
	if again := heal(t, dir, n); len(again) != 0 {
		t.Errorf("a second heal says %s", again)
	}
	out, err := exec.Command("nsenter", "--mount", "--user", "--preserve-credentials", "-t", strconv.Itoa(n.init), "cat", "/proc/uptime").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	c.sh(t, "kill %1 2>/dev/null || kill $!")
}

// TestHealLeavesASlowDaemonAlone has a container bound to a daemon that is
// stopped: its mount is not dead.
func TestHealLeavesASlowDaemonAlone(t *testing.T) {
	dir, _ := serve(t)
	slow, d := deadMount(t)
	c := startContainer(t, "--mount", slow, "--memory", "64M", "--cpus", "0.5")
	wantView(t, c)
	mounts := mountsOf(t, c)
	if lines := heal(t, dir, c); len(lines) != 0 {
		t.Errorf("a living daemon: heal says %s", lines)
	}
	stopped := append(children(d.cmd.Process.Pid), d.cmd.Process.Pid)
	for _, pid := range stopped {
		unix.Kill(pid, unix.SIGSTOP)
	}
	if lines := heal(t, dir, c); len(lines) != 0 {
		t.Errorf("a stopped daemon: heal says %s", lines)
	}
	// Where the host does not see the mount, the container's own helper has to find out.
	if err := unix.Unmount(slow, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if lines := heal(t, dir, c); len(lines) != 1 || !strings.Contains(lines[0], "no answer in") {
		t.Errorf("a stopped daemon without a mount: heal says %s", lines)
	}
	for _, pid := range stopped {
		unix.Kill(pid, unix.SIGCONT)
	}
	wantView(t, c)
	if now := mountsOf(t, c); now != mounts {
		t.Errorf("the mounts were\n%sand are\n%s", mounts, now)
	}
}

// TestHealReplacesLXCFS is the way out for containers of a host where Debian's
// LXCFS has crashed.
func TestHealReplacesLXCFS(t *testing.T) {
	need(t, "lxcfs", "lxcfs")
	dir := startLXCFS(t, "-l", "--enable-cfs").dir // its successor
	old := t.TempDir()
	cmd := exec.Command("lxcfs", "-f", "--pidfile", t.TempDir()+"/pid", "-o", "allow_other", old)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, stderr)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		unix.Unmount(old, unix.MNT_DETACH)
	})
	waitFor(t, "LXCFS", func() bool { return isMounted(t, old) })
	readFile(t, filepath.Join(old, "proc/uptime"))
	c := plainContainer(t, fmt.Sprintf("for f in cpuinfo meminfo stat uptime loadavg; do mount --bind %[1]s/proc/$f /proc/$f; done; mount --bind %[1]s%[2]s %[2]s", old, cpuDir))
	if got := memTotal(t, c.sh(t, "busybox cat /proc/meminfo")); got != 64 {
		t.Fatalf("MemTotal by LXCFS %d MiB, want 64", got)
	}
	if lines := heal(t, dir, c); len(lines) != 0 {
		t.Errorf("LXCFS lives: heal says %s", lines)
	}
	cmd.Process.Kill()
	cmd.Wait()
	wantDead(t, c)
	wantHealed(t, dir, c)
	c.sh(t, "cat /proc/loadavg")
}

// TestHealUncoversWhatTheDaemonDoesNotServe has a file over one that the next
// daemon has none for, as a host may have that comes from LXCFS.
func TestHealUncoversWhatTheDaemonDoesNotServe(t *testing.T) {
	dir, d := deadMount(t)
	c := plainContainer(t, fmt.Sprintf("mount --bind %s/proc/uptime /proc/version", dir))
	d.killWholly(t)
	// Who opens it just when the connection ends gets ECONNABORTED.
	waitFor(t, "the file to be dead", func() bool {
		return strings.Contains(c.sh(t, "cat /proc/version 2>&1"), "not connected")
	})
	startDaemon(t, dir, nil, "serve", dir).line(t)
	if done := heal(t, dir, c); len(done) != 1 || !strings.HasSuffix(done[0], ": removed /proc/version\n") {
		t.Errorf("heal: %s", done)
	}
	if out := c.sh(t, "cat /proc/version"); !strings.HasPrefix(out, "Linux version ") {
		t.Errorf("version: %.100s", out)
	}
	if again := heal(t, dir, c); len(again) != 0 {
		t.Errorf("a second heal says %s", again)
	}
}

// TestHealRemovesWhatIsDead leaves the kernel's files, and living mounts alone.
func TestHealRemovesWhatIsDead(t *testing.T) {
	living, _ := serve(t)
	other := startContainer(t, "--mount", living, "--memory", "64M", "--cpus", "0.5")
	dir, d := deadMount(t)
	c := plainContainer(t, "")
	wantAttached(t, dir, c, "attached")
	before := mountsOf(t, c)
	if lines := heal(t, dir, c, "--remove"); len(lines) != 0 || mountsOf(t, c) != before {
		t.Errorf("of a living daemon: heal says %s", lines)
	}
	d.killWholly(t)
	wantDead(t, c)
	if lines := heal(t, "/nowhere", c, "--remove"); len(lines) != 1 || !strings.Contains(lines[0], ": removed ") || strings.Contains(lines[0], "failed") {
		t.Errorf("heal says %s", lines)
	}
	wantHost(t, c)
	if strings.Contains(mountsOf(t, c), "fuse.") {
		t.Errorf("mounts are left:\n%s", mountsOf(t, c))
	}
	wantView(t, other)
}

func TestHealSurvivesTheDeathOfContainers(t *testing.T) {
	dir, d := deadMount(t)
	var all []*container
	for range 4 {
		all = append(all, startContainer(t, "--mount", dir, "--memory", "64M", "--cpus", "0.5"))
	}
	d.killWholly(t)
	wantDead(t, all[0])
	startDaemon(t, dir, nil, "serve", dir).line(t)
	go func() {
		for _, c := range all[1:] {
			unix.Kill(c.init, unix.SIGKILL)
			sleep(5)
		}
	}()
	for _, line := range heal(t, dir, all[0]) {
		if strings.Contains(line, "failed") {
			t.Errorf("heal: %s", line)
		}
	}
	wantView(t, all[0])
}
