// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// pinned is a mount with a server and Pins.
type pinned struct {
	*served
	pins *fs.Pins
	held int // a descriptor of the bundle, as another process has it
}

// servePinned serves a mount whose files are pinned.
func servePinned(t *testing.T, o fs.ServerOptions) *pinned {
	t.Helper()
	p := &pinned{served: &served{dir: tempDir(t), done: make(chan error, 1)}, held: -1}
	conn, err := fs.Mount(p.dir, fs.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.conn = conn
	dev, err := fs.DevOf(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := fs.Clone(p.dir, dev)
	if err != nil {
		t.Fatal(err)
	}
	p.pins = fs.NewPins(openPin, func(fd int) {
		if p.held >= 0 {
			unix.Close(p.held)
		}
		if p.held, err = unix.Dup(fd); err != nil {
			t.Error(err)
		}
	})
	p.pins.Open(root)
	o.Pins = p.pins
	p.srv = fs.NewTestServer(conn, owned{byUser, constant("content\n")}, o)
	go func() { p.done <- p.srv.Serve() }()
	t.Cleanup(func() {
		_ = p.pins.Close() // the test may have
		_ = fs.Unmount(p.dir)
		p.wait(t)
		unix.Close(p.held)
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// openPin is an fs.OpenFunc. That this process serves the mount too does no harm: nobody
// kills it.
func openPin(root int, path string, announce func(int)) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	announce(unix.Gettid())
	return fs.OpenPin(root, path)
}

// takeLease takes a lease on the file at path, which ends when the descriptor is closed.
func takeLease(t *testing.T, path string, kind int) (fd int, err error) {
	t.Helper()
	if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, kind)
	return fd, err
}

// lease says whether a process would get a lease on the file at path.
func lease(t *testing.T, path string, kind int) error {
	t.Helper()
	fd, err := takeLease(t, path, kind)
	unix.Close(fd)
	return err
}

// mayOpen opens the file at path. EAGAIN says that open(2) would have had to wait for a
// lease.
func mayOpen(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func procFiles(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(dir + "/proc/*")
	if err != nil || len(paths) < 8 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	return paths
}

func TestNoLeaseDelaysAnOpen(t *testing.T) {
	m := servePinned(t, fs.ServerOptions{})
	// What there is to be prevented.
	fd, err := takeLease(t, m.path("uptime"), unix.F_WRLCK)
	if err != nil {
		t.Fatalf("without pins there is no lease: %v", err)
	}
	if err := mayOpen(m.path("uptime")); err != unix.EAGAIN {
		t.Fatalf("open of a leased file: %v, want EAGAIN", err)
	}
	unix.Close(fd)

	if err := m.srv.Pin(); err != nil {
		t.Fatal(err)
	}
	for _, path := range procFiles(t, m.dir) {
		if err := lease(t, path, unix.F_WRLCK); err != unix.EAGAIN {
			t.Errorf("%s: write lease: %v, want EAGAIN", path, err)
		}
		// A read lease delays who opens the file for writing, also if that is refused.
		if err := lease(t, path, unix.F_RDLCK); err != unix.EAGAIN {
			t.Errorf("%s: read lease: %v, want EAGAIN", path, err)
		}
		if err := mayOpen(path); err != nil {
			t.Errorf("%s: open: %v", path, err)
		}
		if fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK, 0); err != unix.EROFS {
			t.Errorf("%s: open for writing: %d, %v, want EROFS", path, fd, err)
		}
	}
	// And they serve no other purpose.
	if got, err := readAll(m.path("uptime")); got != "content\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestPinsDoNotWaitForALease: a mount that was served without pins may have leases.
func TestPinsDoNotWaitForALease(t *testing.T) {
	m := servePinned(t, fs.ServerOptions{})
	fd, err := takeLease(t, m.path("meminfo"), unix.F_WRLCK)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := m.srv.Pin(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("pin a leased file: %v, want EAGAIN", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := lease(t, m.path("stat"), unix.F_WRLCK); err != unix.EAGAIN {
		t.Errorf("write lease of another file: %v, want EAGAIN", err)
	}
	unix.Close(fd)
	if err := m.srv.Pin(); err != nil {
		t.Error(err)
	}
	if err := lease(t, m.path("meminfo"), unix.F_WRLCK); err != unix.EAGAIN {
		t.Errorf("write lease of the file: %v, want EAGAIN", err)
	}
}

// TestPinsOutliveTheirProcess: another process has the bundle.
func TestPinsOutliveTheirProcess(t *testing.T) {
	m := servePinned(t, fs.ServerOptions{})
	if err := m.srv.Pin(); err != nil {
		t.Fatal(err)
	}
	m.pins.Abandon()
	for _, path := range procFiles(t, m.dir) {
		if err := lease(t, path, unix.F_WRLCK); err != unix.EAGAIN {
			t.Errorf("%s: write lease: %v, want EAGAIN", path, err)
		}
	}
	root, err := fs.BundleRoot(m.held)
	if err != nil {
		t.Fatal(err)
	}
	if fd, err := unix.Openat(root, "proc/uptime", unix.O_PATH, 0); err != nil {
		t.Errorf("the clone in the bundle: %v", err)
	} else {
		unix.Close(fd)
	}
	unix.Close(root)
	if err := fs.EmptyBundle(m.held); err != nil {
		t.Fatal(err)
	}
	m.held = -1
	if err := lease(t, m.path("uptime"), unix.F_WRLCK); err != nil {
		t.Errorf("write lease of an unpinned file: %v", err)
	}
}

// TestAMountWithPinsEnds: once it is unmounted, and the pins are closed.
func TestAMountWithPinsEnds(t *testing.T) {
	m := servePinned(t, fs.ServerOptions{})
	if err := m.srv.Pin(); err != nil {
		t.Fatal(err)
	}
	// Without MNT_DETACH, which fails with EBUSY for a mount that is in use.
	if err := unix.Unmount(m.dir, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	if !fs.Connected(m.conn.FD()) {
		t.Fatal("the pins do not keep the connection")
	}
	if err := m.pins.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-m.done:
		m.done <- err
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Fatal("Serve does not return")
	}
}

// TestNoLeaseDelaysAnOpenOfTheHostsFiles: they are pinned when they are opened first.
func TestNoLeaseDelaysAnOpenOfTheHostsFiles(t *testing.T) {
	m := servePinned(t, fs.ServerOptions{Hosts: []*fs.HostTree{openCPUs(t, fakeCPUs(t, 1), nil)}})
	if err := m.srv.Pin(); err != nil {
		t.Fatal(err)
	}
	path := m.dir + "/sys/devices/system/cpu/cpu0/topology/core_id"
	for range 2 {
		if err := lease(t, path, unix.F_WRLCK); err != unix.EAGAIN {
			t.Errorf("write lease: %v, want EAGAIN", err)
		}
		if err := mayOpen(path); err != nil {
			t.Errorf("open: %v", err)
		}
	}
	if got, err := readAll(path); got != "0\n" {
		t.Errorf("%q, %v", got, err)
	}
	// The next process pins those that are open.
	open(t, path)
	m.pins.Abandon()
	if err := m.srv.Pin(); err != nil {
		t.Fatal(err)
	}
	if !m.pins.Has(path[len(m.dir)+1:]) {
		t.Error("a file that is open is not pinned")
	}
}

// TestOneOwnerDoesNotTakeAllPins: whoever opens too many of the host's files at once is
// refused, and nobody else.
func TestOneOwnerDoesNotTakeAllPins(t *testing.T) {
	const files = fs.MaxOwnerPins + 50
	m := servePinned(t, fs.ServerOptions{Hosts: []*fs.HostTree{openCPUs(t, fakeCPUs(t, files), nil)}})
	if err := m.srv.Pin(); err != nil {
		t.Fatal(err)
	}
	path := func(cpu int) string {
		return fmt.Sprintf("%s/sys/devices/system/cpu/cpu%d/topology/core_id", m.dir, cpu)
	}
	// One after the other any number.
	for cpu := range files {
		if err := lease(t, path(cpu), unix.F_WRLCK); err != unix.EAGAIN {
			t.Fatalf("%s: write lease: %v, want EAGAIN", path(cpu), err)
		}
	}
	refused := 0
	var fds []int
	for cpu := range files {
		fd, err := unix.Open(path(cpu), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil && err != unix.ENFILE {
			t.Fatal(err)
		}
		if err != nil {
			refused++
			continue
		}
		fds = append(fds, fd)
	}
	if refused != files-fs.MaxOwnerPins {
		t.Errorf("%d of %d refused", refused, files)
	}
	asUser(t, 1000, func() {
		if err := mayOpen(path(files - 1)); err != nil {
			t.Errorf("another owner: %v", err)
		}
	})
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != unix.EAGAIN {
			t.Fatalf("write lease of an open file: %v, want EAGAIN", err)
		}
		unix.Close(fd)
	}
	if err := mayOpen(path(files - 2)); err != nil {
		t.Errorf("after all are closed: %v", err)
	}
}
