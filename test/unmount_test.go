// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAStoppedDaemonsMountIsEnded: until then readers wait, for somebody keeps the
// descriptors.
func TestAStoppedDaemonsMountIsEnded(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) }) // an error says that nothing is left
	s := newFDStore(t)
	d := s.start(t, dir)
	c := plainContainer(t, "")
	wantAttached(t, dir, c, "attached")
	wantView(t, c)

	out, stderr, status := vprocfs(t, "unmount", dir)
	if status != 1 || out != "" || stderr != "vprocfs: unmount: "+dir+": the daemon runs: stop it first\n" {
		t.Errorf("while it runs: exit status %d\n%s%s", status, out, stderr)
	}
	wantView(t, c)

	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 {
		t.Fatalf("exit status %d\n%s", status, log)
	}
	end := background(t, filepath.Join(dir, "proc/uptime"))
	if out, stderr, status := vprocfs(t, "unmount", dir); status != 0 || stderr != "" || !strings.Contains(out, " removed /") {
		t.Errorf("exit status %d\n%s%s", status, out, stderr)
	}
	if out, err := end(); err == nil {
		t.Errorf("who waited got %q", out)
	}
	if isMounted(t, dir) {
		t.Error("it is mounted still")
	}
	wantHost(t, c)
	if mounts := mountsOf(t, c); strings.Contains(mounts, "fuse.") {
		t.Errorf("left in the container:\n%s", mounts)
	}

	// The next start mounts anew: the descriptors that were kept are of no use.
	s.start(t, dir)
	checkUptime(t, dir)
	wantAttached(t, dir, c, "attached")
	wantView(t, c)
}

// TestAfterAnUnmountNoRuntimeWaits: what was declared as a mount is missing, which is an
// error at once; what the hook brings is left out.
func TestAfterAnUnmountNoRuntimeWaits(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) }) // an error says that nothing is left
	s := newFDStore(t)
	d := s.start(t, dir)
	p := newPodman(t)
	mount := []string{"--mount", "type=bind,source=" + dir + "/proc/meminfo,target=/proc/meminfo,readonly"}
	create := slices.Concat([]string{"create", "--name", "declared", "--network", "none", "--cgroup-parent", p.parent, "--log-driver", "none",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}, mount, []string{"--rootfs", p.root, "/bin/busybox", "cat", "/proc/meminfo"})
	for _, args := range [][]string{create, {"start", "--attach", "declared"}} {
		if out, err := p.command(args...).CombinedOutput(); err != nil {
			t.Fatalf("podman %s: %v\n%s", args[0], err, out)
		}
	}
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 {
		t.Fatalf("exit status %d\n%s", status, log)
	}
	if _, stderr, status := vprocfs(t, "unmount", dir); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}

	for name, cmd := range map[string]*exec.Cmd{
		"run":   p.run(nil, mount, "/bin/busybox", "true"),
		"start": p.command("start", "--attach", "declared"),
	} {
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(strings.ToLower(string(out)), "no such file or directory") {
			t.Errorf("podman %s: %v\n%s", name, err, out)
		}
	}
	if out, err := p.command("rm", "declared").CombinedOutput(); err != nil {
		t.Errorf("podman rm: %v\n%s", err, out)
	}
	hooks := t.TempDir()
	if err := os.WriteFile(filepath.Join(hooks, "vprocfs.json"), []byte(hooksFile(t, vprocfsPath(t), dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := p.run([]string{"--hooks-dir", hooks}, nil, "/bin/busybox", "cat", "/proc/meminfo").Output()
	if err != nil {
		t.Fatalf("podman run with the hook: %v", failure(err))
	}
	if got, want := meminfo(t, string(out))["MemTotal"], meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]; got != want {
		t.Errorf("with the hook MemTotal is %d kB, want the host's %d", got, want)
	}
}

func TestUnmountTouchesNothingElse(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none")} {
		if out, stderr, status := vprocfs(t, "unmount", path); status != 0 || out+stderr != "" {
			t.Errorf("nothing is mounted at %s: exit status %d\n%s%s", path, status, out, stderr)
		}
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if _, stderr, status := vprocfs(t, "unmount", dir); status != 1 || !strings.Contains(stderr, "(type tmpfs)") {
		t.Errorf("a tmpfs: exit status %d\n%s", status, stderr)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil || !isMounted(t, dir) {
		t.Errorf("the tmpfs is gone: %v", err)
	}
}

// TestUnmountAsksSystemdWhetherTheUnitStartsAgain has a systemctl of its own.
func TestUnmountAsksSystemdWhetherTheUnitStartsAgain(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	dir := t.TempDir()
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := newFDStore(t)
	d := s.start(t, dir)
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 {
		t.Fatalf("exit status %d\n%s", status, log)
	}
	for _, tt := range []struct {
		script  string
		mounted bool
		status  int
	}{
		{"exit 1", true, 1},
		{"echo 7 vprocfs.service restart running", true, 0},
		{"", true, 0},
		{"echo 7 vprocfs.service stop running", false, 0},
	} {
		if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\n"+tt.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		out, stderr, status := vprocfs(t, "unmount", "--unless-restarting", "vprocfs.service", dir)
		if status != tt.status || isMounted(t, dir) != tt.mounted {
			t.Errorf("%q: exit status %d, mounted %t\n%s%s", tt.script, status, isMounted(t, dir), out, stderr)
		}
	}
}

// background starts a read of a file that may have to wait, and returns what waits
// for its end.
func background(t *testing.T, path string) (end func() (string, error)) {
	t.Helper()
	cmd := exec.Command("cat", path)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	return func() (string, error) {
		select {
		case err := <-done:
			return out.String(), err
		case <-time.After(patience):
			t.Fatalf("no answer in %s", patience)
		}
		return "", nil
	}
}
