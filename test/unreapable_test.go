// SPDX-License-Identifier: Apache-2.0

package test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keepUnreaped traces a process until the test ends. Its parent learns nothing of its
// death then, as if it hung in the kernel (ptrace(2)).
func keepUnreaped(t *testing.T, pid int) {
	t.Helper()
	seized, release, released := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(released)
		runtime.LockOSThread() // the tracer is a thread, which ends with this goroutine
		seized <- unix.PtraceSeize(pid)
		<-release
		unix.Wait4(pid, nil, unix.WALL, nil)
	}()
	if err := <-seized; err != nil {
		t.Fatalf("ptrace: %v", err)
	}
	t.Cleanup(func() {
		unix.Kill(pid, unix.SIGKILL)
		close(release)
		<-released
	})
}

// TestAWorkerThatCannotBeReapedIsAnOutage: nobody waits for longer than --max-outage.
func TestAWorkerThatCannotBeReapedIsAnOutage(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", "--max-outage", "3s", dir)
	d.line(t)
	worker := d.worker(t)
	keepUnreaped(t, worker)
	unix.Kill(worker, unix.SIGKILL)
	d.cmd.Process.Signal(unix.SIGUSR1) // an upgrade neither helps nor hinders
	begun := time.Now()
	out, err := readUptime(dir)
	if took := time.Since(begun); err == nil || took > 20*time.Second {
		t.Errorf("who waited got %v: %q after %v", err, out, took)
	}
	if log, status := d.end(t); status != 1 || !strings.Contains(log, "gave up") {
		t.Errorf("exit status %d, log %q", status, log)
	}
}
