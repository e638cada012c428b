// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startFull starts a daemon and fills its stderr, which is a pipe, once it serves.
func startFull(t *testing.T, dir string) *daemon {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("vprocfs", "serve", dir)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(cmd, r, dir)
	t.Cleanup(func() {
		killDaemon(cmd)
		unix.Unmount(dir, unix.MNT_DETACH) // an error says that nothing is left
		r.Close()
	})
	d.until(t, "msg=serving")
	// Through a description of our own: the daemon's stays as it is.
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	w.Close()
	for _, size := range []int{4096, 1} {
		for err := error(nil); err == nil; {
			_, err = unix.Write(fd, []byte(strings.Repeat("\n", size)))
		}
	}
	return d
}

// readSoon reads a file of the mount within some seconds.
func readSoon(t *testing.T, dir, what string) {
	t.Helper()
	out, err := exec.Command("timeout", "-s", "KILL", "10", "cat", filepath.Join(dir, "proc/uptime")).CombinedOutput()
	if err != nil || len(strings.Fields(string(out))) != 2 {
		t.Errorf("%s: %v: %q", what, err, out)
	}
}

// TestNobodyWaitsForTheReaderOfTheLog has a log that nobody reads: workers crash and are
// replaced, the holder crashes and is replaced, and a signal ends it.
func TestNobodyWaitsForTheReaderOfTheLog(t *testing.T) {
	dir := t.TempDir()
	d := startFull(t, dir)
	readSoon(t, dir, "a log that nobody reads")
	for _, s := range []unix.Signal{unix.SIGKILL, unix.SIGABRT} {
		worker := d.worker(t)
		unix.Kill(worker, s)
		readSoon(t, dir, fmt.Sprintf("after %v to the worker", s))
	}
	d.cmd.Process.Signal(unix.SIGUSR2)
	readSoon(t, dir, "switched off")
	d.cmd.Process.Signal(unix.SIGUSR2)
	d.cmd.Process.Signal(unix.SIGTERM)
	ended := make(chan error)
	go func() { ended <- d.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil || isMounted(t, dir) {
			t.Errorf("%v, mounted: %t", err, isMounted(t, dir))
		}
	case <-time.After(10 * time.Second):
		t.Error("the daemon does not end")
		unix.Kill(d.cmd.Process.Pid, unix.SIGKILL)
		<-ended
	}
}

// TestAHolderThatCrashesDoesNotWaitForTheReaderOfTheLog: the worker starts another.
func TestAHolderThatCrashesDoesNotWaitForTheReaderOfTheLog(t *testing.T) {
	dir := t.TempDir()
	d := startFull(t, dir)
	worker := d.worker(t)
	d.cmd.Process.Signal(unix.SIGABRT)
	ended := make(chan error)
	go func() { ended <- d.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the holder does not end")
		unix.Kill(d.cmd.Process.Pid, unix.SIGKILL)
		<-ended
	}
	line := d.until(t, "msg=serving")
	if got := workerOf(t, line); got != worker {
		t.Errorf("worker %d, was %d", got, worker)
	}
	endHolder(t, d, dir, line)
}

// TestACrashIsInTheLog: what the Go runtime prints of a worker that dies, and before the
// line that says so.
func TestACrashIsInTheLog(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	for range 2 {
		unix.Kill(d.worker(t), unix.SIGABRT)
		d.until(t, "SIGABRT: abort")
		d.until(t, "goroutine ")
		d.until(t, "the worker has ended")
		checkUptime(t, dir)
	}
	// With no holder there is none to copy it, but the next one does.
	worker := d.worker(t)
	d.cmd.Process.Signal(unix.SIGSTOP)
	unix.Kill(worker, unix.SIGSTOP)
	unix.Kill(worker, unix.SIGABRT)
	d.cmd.Process.Signal(unix.SIGCONT)
	unix.Kill(worker, unix.SIGCONT)
	d.until(t, "SIGABRT: abort")
	d.stop(t)
}

// TestNobodyWaitsForSystemd that does not read what it is told.
func TestNobodyWaitsForSystemd(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for err == nil { // until the queue of the socket is full
		err = unix.Sendto(fd, []byte("X=1"), 0, &unix.SockaddrUnix{Name: path})
	}
	d := startDaemon(t, dir, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=3000000"}, "serve", dir)
	waitFor(t, "the mount", func() bool { return isMounted(t, dir) })
	for range 3 {
		readSoon(t, dir, "systemd does not read")
		unix.Kill(d.worker(t), unix.SIGKILL)
	}
	readSoon(t, dir, "systemd does not read")
	begun := time.Now()
	d.stop(t)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
}
