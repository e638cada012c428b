// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// servingPod is the container serve of a pod, on a host without systemd.
type servingPod struct {
	cmd *exec.Cmd
	dir string
	log *strings.Builder
}

// startServingPod starts it with a mount point below the directory, and waits until it
// serves. It attaches no container: others' run on this machine.
func startServingPod(t *testing.T, volume string) *servingPod {
	t.Helper()
	p := &servingPod{dir: filepath.Join(volume, "node"), log: new(strings.Builder)}
	p.cmd = exec.Command("vprocfs", "node", "serve", "--host", t.TempDir(), "--mount", p.dir, "--serve-flags", "--attach none")
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.kill()
			unix.Unmount(p.dir, unix.MNT_DETACH)
		}
	})
	waitFor(t, "a daemon at "+p.dir, func() bool { _, err := os.Stat(p.dir + "/proc/uptime"); return err == nil })
	return p
}

// kill kills all its processes, as a runtime does with those of a container.
func (p *servingPod) kill() {
	var all []int
	var stop func(pid int)
	stop = func(pid int) {
		unix.Kill(pid, unix.SIGSTOP) // it makes no more children
		all = append(all, pid)
		for _, child := range children(pid) {
			stop(child)
		}
	}
	stop(p.cmd.Process.Pid)
	for _, pid := range all {
		unix.Kill(pid, unix.SIGKILL)
	}
	p.cmd.Wait()
}

// TestAPodServesWhereThereIsNoSystemd: a pod that is killed leaves dead files, which the next
// one heals; one that is stopped leaves nothing.
func TestAPodServesWhereThereIsNoSystemd(t *testing.T) {
	volume := t.TempDir()
	c := plainContainer(t, "")
	p := startServingPod(t, volume)
	wantAttached(t, p.dir, c, "attached")
	wantView(t, c)

	p.kill()
	waitFor(t, "the files to be dead", func() bool {
		return strings.Contains(c.sh(t, "busybox cat /proc/uptime 2>&1 || true"), "not connected")
	})
	before := viewDevices(t, c)
	p = startServingPod(t, volume)
	waitFor(t, "the container to be healed", func() bool {
		now, own := viewDevices(t, c), deviceAt(t, p.dir)
		return len(now) == len(before) && slices.Max(now) == own && slices.Min(now) == own
	})
	wantView(t, c)

	p.cmd.Process.Signal(unix.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, p.log)
	}
	if !strings.Contains(p.log.String(), "the host has no systemd: serving from this pod") {
		t.Errorf("log:\n%s", p.log)
	}
	wantHost(t, c)
	if mounts := mountsOf(t, c); strings.Contains(mounts, "fuse.") {
		t.Errorf("left in the container:\n%s", mounts)
	}
	if left, err := os.ReadDir(volume); err != nil || len(left) > 0 {
		t.Errorf("left in the volume: %v, %v", left, err)
	}
}

// viewDevices returns the devices of the mounts of vprocfs in a container.
func viewDevices(t *testing.T, c *container) (devices []string) {
	t.Helper()
	for line := range strings.Lines(mountsOf(t, c)) {
		if strings.Contains(line, "fuse.vprocfs") {
			devices = append(devices, strings.Fields(line)[2])
		}
	}
	return devices
}

// TestAPodOnlyWaitsWhereTheHostHasSystemd: the service of the host serves.
func TestAPodOnlyWaitsWhereTheHostHasSystemd(t *testing.T) {
	host, dir := t.TempDir(), filepath.Join(t.TempDir(), "node")
	if err := os.MkdirAll(host+"/run/systemd/system", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("vprocfs", "node", "serve", "--host", host, "--mount", dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 4096)
	n, err := stderr.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), "this container has nothing to do") {
		t.Errorf("%s, %v", line[:n], err)
	}
	cmd.Process.Signal(unix.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", dir, err)
	}
}

// TestAPodEndsWithADaemonThatDoesNotStart, so that its runtime starts it again and says so.
func TestAPodEndsWithADaemonThatDoesNotStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	_, stderr, status := vprocfs(t, "node", "serve", "--host", t.TempDir(), "--mount", dir, "--serve-flags", "--no-such-flag")
	if status != 1 || !strings.Contains(stderr, "the daemon has ended: exit status 2") {
		t.Errorf("exit status %d:\n%s", status, stderr)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", dir, err)
	}
}
