// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leaser is a process that asks for leases (F_SETLEASE). Its lines are "w PATH" for a
// write lease, "r PATH" for a read lease, and "drop". It keeps what it gets.
type leaser struct{ fds []int }

func (l *leaser) obey(line string) error {
	kind, path, _ := strings.Cut(line, " ")
	if kind == "drop" {
		for _, fd := range l.fds {
			unix.Close(fd)
		}
		l.fds = nil
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	lease := unix.F_RDLCK
	if kind == "w" {
		lease = unix.F_WRLCK
	}
	l.fds = append(l.fds, fd)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, lease); err != nil {
		fmt.Println(unix.ErrnoName(err.(unix.Errno)))
		return nil
	}
	fmt.Println("lease")
	return nil
}

// leaseOften opens the paths and asks for write leases on all of them until its input
// ends. It prints how many it got.
func leaseOften(paths []string) error {
	if err := dropCaps(); err != nil {
		return err
	}
	var fds []int
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		fds = append(fds, fd)
	}
	ended := make(chan struct{})
	go func() {
		_, _ = fmt.Scanln()
		close(ended)
	}()
	for got := 0; ; time.Sleep(50 * time.Microsecond) {
		for _, fd := range fds {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err == nil {
				got++
			}
		}
		select {
		case <-ended:
			fmt.Println(got)
			return nil
		default:
		}
	}
}

// dropCaps gives up all capabilities. A lease needs none if the file has the caller's uid.
func dropCaps() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// openLine opens the file of a line as another container does, and prints what comes of
// it: EAGAIN if it would have had to wait for a lease.
func openLine(line string) error {
	mode, path, _ := strings.Cut(line, " ")
	flags := unix.O_RDONLY
	if mode == "write" {
		flags = unix.O_RDWR
	}
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		fmt.Println(unix.ErrnoName(err.(unix.Errno)))
		return nil
	}
	fmt.Println("open")
	return unix.Close(fd)
}

// leasable returns the paths in a container of the files that a daemon at dir serves.
func leasable(t *testing.T, dir string) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"proc/*", "proc/pressure/*", "sys/devices/system/cpu/*", "sys/devices/system/cpu/cpu0/*", "sys/devices/system/cpu/cpu0/topology/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				t.Fatal(err)
			}
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				paths = append(paths, strings.TrimPrefix(path, dir))
			}
		}
	}
	return paths
}

// TestLeasesDelayNobody: uid 0 of a container that has no user namespace and no
// capability asks for leases on each file that is served.
func TestLeasesDelayNobody(t *testing.T) {
	dir, _ := serve(t)
	leaser := startCommand(t, []string{"--mount", dir, "--memory", "64M"}, toolCommand(t, "lease")...)
	other := startCommand(t, []string{"--mount", dir, "--memory", "64M"}, toolCommand(t, "open")...)
	paths := leasable(t, dir)
	if len(paths) < 12 {
		t.Fatalf("%d files: %q", len(paths), paths)
	}
	for _, path := range paths {
		for _, kind := range []string{"w", "r"} {
			if got := leaser.answer(t, kind+" "+path, "."); got != "EAGAIN\n" {
				t.Errorf("%s: lease %s: %q, want EAGAIN", path, kind, got)
			}
		}
		if got := other.answer(t, "read "+path, "."); got != "open\n" {
			t.Errorf("%s: open to read: %q", path, got)
		}
		want := "EROFS\n"
		if strings.HasPrefix(path, "/proc/pressure/") {
			want = "open\n"
		}
		if got := other.answer(t, "write "+path, "."); got != want {
			t.Errorf("%s: open to write: %q, want %q", path, got, want)
		}
		leaser.answer(t, "drop", ".")
	}
}

// TestThereIsNoMomentForALease: while workers are killed and upgraded, and the holder
// dies, a container asks for leases without a pause.
func TestThereIsNoMomentForALease(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	paths := []string{"/proc/uptime", "/proc/meminfo", cpuDir + "/online", cpuDir + "/cpu0/topology/core_id"}
	leaser := startCommand(t, []string{"--mount", dir, "--memory", "64M"}, toolCommand(t, "leases", paths...)...)
	sleep(200) // it has them open
	for range 10 {
		unix.Kill(d.worker(t), unix.SIGKILL)
		checkUptime(t, dir)
		sleep(50)
	}
	if _, stderr, status := vprocfs(t, "upgrade", dir); status != 0 {
		t.Errorf("upgrade: %s", stderr)
	}
	d.cmd.Process.Kill()
	line := d.until(t, "msg=serving")
	unix.Kill(workerOf(t, line), unix.SIGKILL)
	d.until(t, "the worker has ended")
	checkUptime(t, dir)
	if got := leaser.answer(t, "", "0"); got != "" {
		t.Errorf("%s leases", got)
	}
	endHolder(t, d, dir, line)
}

// TestAnUnmountEndsADaemonWithPins: what keeps the files open must not keep the mount.
func TestAnUnmountEndsADaemonWithPins(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	checkUptime(t, dir)
	if out, err := exec.Command("umount", "-R", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	if log, status := d.end(t); status != 0 || !strings.Contains(log, "unmounted by another process") {
		t.Errorf("exit status %d\n%s", status, log)
	}
}
