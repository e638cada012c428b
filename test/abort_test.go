// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// abort ends the connection of the mount at dir from outside.
func abort(t *testing.T, dir string) {
	t.Helper()
	_, minor, _ := strings.Cut(deviceAt(t, dir), ":")
	control := "/sys/fs/fuse/connections"
	if _, err := os.Stat(filepath.Join(control, minor)); err != nil {
		control = t.TempDir()
		if err := unix.Mount("none", control, "fusectl", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(control, unix.MNT_DETACH)
	}
	if err := os.WriteFile(filepath.Join(control, minor, "abort"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

// wantRenewed waits until the daemon has a new connection and has healed the container.
func (d *daemon) wantRenewed(t *testing.T, dir, dev string, c *container) {
	t.Helper()
	d.until(t, "the fuse connection was aborted from outside")
	if line := d.until(t, "containers healed"); strings.Contains(line, "namespaces=0") {
		t.Errorf("log: %s", line)
	}
	checkUptime(t, dir)
	if now := deviceAt(t, dir); now == dev || now == "" {
		t.Errorf("mount %q, was %q", now, dev)
	}
	wantView(t, c)
}

// TestAnAbortedConnectionIsMountedAgain: a container that is privileged, and not in a user
// namespace, aborts the connection of all.
func TestAnAbortedConnectionIsMountedAgain(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	bystander := startContainer(t, "--mount", dir, "--memory", "64M", "--cpus", "0.5")
	wantView(t, bystander)
	for how, abort := range map[string]func(){
		"umount -f": func() {
			inContainer(t, []string{"--mount", dir, "--memory", "64M"}, "umount", "-f", "/proc/uptime")
		},
		"fusectl": func() { abort(t, dir) },
		// The next worker finds out.
		"fusectl, without a worker": func() {
			worker := d.worker(t)
			unix.Kill(worker, unix.SIGSTOP)
			abort(t, dir)
			unix.Kill(worker, unix.SIGKILL)
		},
	} {
		t.Log(how)
		dev := deviceAt(t, dir)
		abort()
		d.wantRenewed(t, dir, dev, bystander)
	}
	// Requests reach the daemon under its new number, and nothing is left of the old one.
	if _, stderr, status := vprocfs(t, "upgrade", dir); status != 0 {
		t.Errorf("upgrade: %s", stderr)
	}
	n := 0
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if strings.Fields(line)[4] == dir {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d mounts at the mount point", n)
	}
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 || isMounted(t, dir) {
		t.Errorf("exit status %d, mounted: %t\n%s", status, isMounted(t, dir), log)
	}
}

// TestAbortsInALoopMakeNoStorm: each costs some processes.
func TestAbortsInALoopMakeNoStorm(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	const seconds = 10
	aborts := 0
	for end := time.Now().Add(seconds * time.Second); time.Now().Before(end); sleep(5) {
		if _, err := readUptime(dir); err == nil {
			abort(t, dir)
			aborts++
		}
	}
	// 0, 0.1, 0.2, 0.4, ... s between them.
	if aborts < 3 || aborts > 10 {
		t.Errorf("%d connections in %d s", aborts, seconds)
	}
	waitFor(t, "the view", func() bool { _, err := readUptime(dir); return err == nil })
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 {
		t.Errorf("exit status %d\n%s", status, log)
	}
}

// TestAForcedUnmountOfTheAdministratorEndsTheDaemon: it aborts too.
func TestAForcedUnmountOfTheAdministratorEndsTheDaemon(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	_ = exec.Command("umount", filepath.Join(dir, "proc/pressure")).Run() // if it is a mount of its own
	if out, err := exec.Command("umount", "-f", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	if log, status := d.end(t); status != 0 || !strings.Contains(log, "unmounted by another process") {
		t.Errorf("exit status %d\n%s", status, log)
	}
	if isMounted(t, dir) {
		t.Errorf("%s is mounted again", dir)
	}
}
