// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// linesFor reads the log for so long, and counts the lines that have the words in them.
func (d *daemon) linesFor(t *testing.T, patience time.Duration, words string) (n int) {
	t.Helper()
	if err := d.pipe.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		s, err := d.log.ReadString('\n')
		if err != nil {
			return n // the deadline
		}
		if strings.Contains(s, words) {
			n++
		}
	}
}

// limitFiles limits the descriptors of a process.
func limitFiles(t *testing.T, pid int, soft uint64) (was uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	return old.Cur
}

// TestAWorkerNeverGivesUpItsHolder has no descriptors for another one for a while.
func TestAWorkerNeverGivesUpItsHolder(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	worker := d.worker(t)
	t.Cleanup(func() {
		if t.Failed() { // else it has ended
			unix.Kill(worker, unix.SIGKILL)
		}
	})
	was := limitFiles(t, worker, 6)
	d.cmd.Process.Kill()
	if n := d.linesFor(t, 3*time.Second, "working on"); n < 2 || n > 12 {
		t.Errorf("%d attempts in 3 s", n)
	}
	limitFiles(t, worker, was)
	line := d.until(t, "msg=serving")
	if got := workerOf(t, line); got != worker {
		t.Errorf("worker %d, was %d", got, worker)
	}
	checkUptime(t, dir)
	endHolder(t, d, dir, line)
}

// TestHoldersThatDoNotLastAreNoStorm: each that the worker starts ends at once, because
// it cannot make its pid file.
func TestHoldersThatDoNotLastAreNoStorm(t *testing.T) {
	d := startLXCFS(t)
	dir, pidFile := d.dir, d.pidFile()
	worker := d.worker(t)
	if err := os.Remove(pidFile); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(pidFile, 0o755); err != nil {
		t.Fatal(err)
	}
	d.cmd.Process.Kill()
	if n := d.linesFor(t, 3*time.Second, "started another"); n < 2 || n > 12 {
		t.Errorf("%d holders in 3 s", n)
	}
	checkUptime(t, dir)
	if err := os.Remove(pidFile); err != nil {
		t.Fatal(err)
	}
	line := d.until(t, "msg=serving")
	if got := workerOf(t, line); got != worker {
		t.Errorf("worker %d, was %d", got, worker)
	}
	endHolder(t, d, dir, line)
}
