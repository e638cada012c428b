// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// StartFunc starts a process that calls RunWriter with conn and table. ended is called
// when it has ended, if it ever does.
type StartFunc func(conn, table *os.File, ended func()) error

// writers gives jobs to a writer, and starts another one if it ends. It is safe for
// concurrent use.
type writers struct {
	start StartFunc
	table *Table
	log   *slog.Logger
	again func() // called when a writer has ended

	mu      sync.Mutex
	conn    int // -1: there is none
	count   int
	failing bool // to start one
}

// Bounds of the wait for a writer that has many jobs.
const (
	jobPause = time.Millisecond
	jobTries = 500
)

// send hands a job to the writer. What it cannot hand on the next sweep does.
func (w *writers) send(j *job, fd seccomp.FD) {
	rights := unix.UnixRights(int(fd))
	for range jobTries {
		if err := w.trySend(j, rights); err != unix.EAGAIN {
			return
		}
		time.Sleep(jobPause)
	}
}

func (w *writers) trySend(j *job, rights []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn < 0 {
		err := w.startOne()
		if err != nil && !w.failing {
			w.log.Error("nobody writes the answers to system calls", "err", err)
		}
		if w.failing = err != nil; w.failing {
			return err
		}
	}
	return unix.Sendmsg(w.conn, j.bytes(), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// startOne starts a writer.
func (w *writers) startOne() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(fds[1]), "jobs")
	defer theirs.Close()
	table, err := unix.FcntlInt(uintptr(w.table.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errors.Join(err, unix.Close(fds[0]))
	}
	file := os.NewFile(uintptr(table), "table")
	defer file.Close()
	w.count++
	number := w.count
	if err := w.start(theirs, file, func() { w.ended(number) }); err != nil {
		return errors.Join(err, unix.Close(fds[0]))
	}
	w.conn = fds[0]
	return nil
}

// ended notes that a writer has ended.
func (w *writers) ended(number int) {
	w.mu.Lock()
	current := number == w.count && w.conn >= 0
	if current {
		w.drop()
	}
	w.mu.Unlock()
	if current {
		w.again()
	}
}

// replace gives up the writer, which takes no jobs. It ends when it can.
func (w *writers) replace() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn >= 0 {
		w.log.Warn("what writes the answers to system calls does not answer: starting another")
		w.drop()
	}
}

func (w *writers) drop() {
	unix.Close(w.conn)
	w.conn = -1
}
