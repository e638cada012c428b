// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// mountLine returns the last line of a mountinfo for a mount point without
// blanks.
func mountLine(t *testing.T, mountinfo, dir string) string {
	t.Helper()
	found := ""
	for line := range strings.Lines(mountinfo) {
		if contains(line, " "+dir+" ") {
			found = line
		}
	}
	if found == "" {
		t.Fatalf("nothing is mounted on %s", dir)
	}
	return found
}

func TestMountRefusesWhatIsNoDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		filepath.Join(dir, "missing"): unix.ENOENT,
		file:                          unix.ENOTDIR,
		filepath.Join(file, "x"):      unix.ENOTDIR,
		"":                            unix.ENOENT,
	} {
		_, err := fs.Mount(path, fs.MountOptions{})
		if !errors.Is(err, want) || errors.Is(err, fs.ErrNoFUSE) || !strings.HasPrefix(err.Error(), "mount "+path+": ") {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
	}
}

func TestMountRefusesWhereSomethingIsMounted(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(m.dir, link); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if err := unix.Mount("none", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(other, unix.MNT_DETACH) })
	for _, dir := range []string{m.dir, m.dir + "/", link, other} {
		if _, err := fs.Mount(dir, fs.MountOptions{}); !errors.Is(err, fs.ErrMounted) {
			t.Errorf("%s: %v, want ErrMounted", dir, err)
		}
	}
	// And the live one is still there.
	if got, err := readAll(m.path("uptime")); got != "x" {
		t.Errorf("%q %v", got, err)
	}
}

func TestMountReplacesTheMountOfADeadDaemon(t *testing.T) {
	// With a blank, a backslash and a newline, which mountinfo escapes.
	dir := filepath.Join(t.TempDir(), "a b\\040\nc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for range 3 {
		conn, err := fs.Mount(dir, fs.MountOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != unix.ENOTCONN {
			t.Fatalf("the mount is not dead: %v", err)
		}
	}
	// Each has replaced the one before: below the last there is none.
	if err := fs.Unmount(dir); err != nil {
		t.Error(err)
	}
	if err := fs.Unmount(dir); !errors.Is(err, unix.EINVAL) {
		t.Errorf("there was more than one mount: %v", err)
	}
	// The dead mount of another program is not ours to replace.
	conn, err := fs.Mount(dir, fs.MountOptions{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := fs.Mount(dir, fs.MountOptions{}); !errors.Is(err, fs.ErrMounted) {
		t.Errorf("%v, want ErrMounted", err)
	}
}

func TestMountRefusesOnAHungMountInsteadOfHanging(t *testing.T) {
	dir := t.TempDir()
	conn, err := fs.Mount(dir, fs.MountOptions{}) // and nobody serves it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Mount(dir, fs.MountOptions{}); !errors.Is(err, fs.ErrMountHung) {
		t.Errorf("%v, want ErrMountHung", err)
	}
	if err := fs.Unmount(dir); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("second close: %v", err)
	}
}

func TestMountWithoutRightsIsNotPermitted(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
			return
		}
		if _, err := fs.Mount(dir, fs.MountOptions{}); !errors.Is(err, unix.EPERM) {
			t.Errorf("mount: %v, want EPERM", err)
		}
		if _, _, err := fs.MountDetached(fs.MountOptions{}); !errors.Is(err, unix.EPERM) {
			t.Errorf("mount detached: %v, want EPERM", err)
		}
	})
	wg.Wait()
}

func TestMountWithoutDeviceSaysNoFUSE(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("none", "/dev", "tmpfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		if _, err := fs.Mount(dir, fs.MountOptions{}); !errors.Is(err, fs.ErrNoFUSE) {
			t.Errorf("mount: %v, want ErrNoFUSE", err)
		}
		if _, _, err := fs.MountDetached(fs.MountOptions{}); !errors.Is(err, fs.ErrNoFUSE) {
			t.Errorf("mount detached: %v, want ErrNoFUSE", err)
		}
	})
	wg.Wait()
}

func TestDetachedMountIsServedBeforeAndAfterItIsAttached(t *testing.T) {
	conn, mountfd, err := fs.MountDetached(fs.MountOptions{FSName: "source"})
	if err != nil {
		t.Fatal(err)
	}
	m := &served{dir: t.TempDir(), conn: conn, done: make(chan error, 1)}
	m.srv = fs.NewTestServer(conn, constant("content"), fs.ServerOptions{})
	go func() { m.done <- m.srv.Serve() }()

	fd, err := unix.Openat(mountfd, "proc/uptime", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := pread(t, fd, 100, 0); got != "content" {
		t.Errorf("before: %q", got)
	}
	unix.Close(fd)
	if err := unix.MoveMount(mountfd, "", unix.AT_FDCWD, m.dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
	unix.Close(mountfd)
	if got, err := readAll(m.path("uptime")); got != "content" {
		t.Errorf("after: %q %v", got, err)
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	line := mountLine(t, string(text), m.dir)
	if !contains(line, " rw,nosuid,nodev,noexec,relatime ") || !contains(line, " - fuse.vprocfs source rw,user_id=0,group_id=0,allow_other") {
		t.Errorf("not the options of a mount: %q", line)
	}
	if err := fs.Unmount(m.dir); err != nil {
		t.Error(err)
	}
	if err := m.wait(t); err != nil {
		t.Error(err)
	}
	conn.Close()
}

func TestDetachedMountEndsWithItsDescriptor(t *testing.T) {
	conn, mountfd, err := fs.MountDetached(fs.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := &served{done: make(chan error, 1)}
	m.srv = fs.NewTestServer(conn, constant("x"), fs.ServerOptions{})
	go func() { m.done <- m.srv.Serve() }()
	unix.Close(mountfd)
	if err := m.wait(t); err != nil {
		t.Error(err)
	}
	conn.Close()
}
