// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// job tells a writer of a deed. The listener comes with it.
type job struct {
	slot, lane uint32
	id         uint64
}

const jobSize = 16

var _ [jobSize]byte = [unsafe.Sizeof(job{})]byte{}

func (j *job) bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(j)), jobSize) }

// maxIdle is how many threads of a writer wait for a job when there is nothing to do.
const maxIdle = 4

// writer is a process that does deeds. A deed may hang for as long as a container likes, and
// then the process cannot end either: so it is one that nobody waits for.
type writer struct {
	table *Table
	conn  int
	idle  atomic.Int32
	ended chan error
}

// RunWriter does the deeds in the table that the jobs on conn name, until the other end of
// conn is closed. Each deed has a thread of its own.
func RunWriter(conn, table int) error {
	t, err := OpenTable(table)
	if err != nil {
		return err
	}
	w := &writer{table: t, conn: conn, ended: make(chan error, 1)}
	w.idle.Store(1)
	go w.run()
	return <-w.ended
}

// run is a thread that does one job after another. Another one waits for the next job while
// it is at work.
func (w *writer) run() {
	runtime.LockOSThread() // which the tag names; it ends with this function
	self := newTag(writerTag, unix.Gettid())
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		var j job
		fd, err := w.receive(&j, rights)
		if err != nil {
			if err == errEnd {
				err = nil
			}
			select {
			case w.ended <- err:
			default:
			}
			return
		}
		if w.idle.Add(-1) == 0 {
			w.idle.Add(1)
			go w.run()
		}
		w.do(&j, fd, self)
		unix.Close(int(fd))
		if w.idle.Add(1) > maxIdle {
			w.idle.Add(-1)
			return
		}
	}
}

// errEnd says that there are no jobs any more.
var errEnd = errors.New("no more jobs")

func (w *writer) receive(j *job, rights []byte) (seccomp.FD, error) {
	for {
		n, rightsLen, _, _, err := unix.Recvmsg(w.conn, j.bytes(), rights, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return -1, fmt.Errorf("receive a job: %w", err)
		case n == 0:
			return -1, errEnd
		}
		messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
		if err != nil || len(messages) != 1 {
			return -1, fmt.Errorf("a job without a listener: %w", err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return -1, fmt.Errorf("a job without a listener: %w", err)
		}
		if n != jobSize || j.slot >= MaxListeners || j.lane > lanes {
			unix.Close(fds[0])
			return -1, errors.New("no job")
		}
		return seccomp.FD(fds[0]), nil
	}
}

// do does a job, unless another process has the call in hand or has answered it.
func (w *writer) do(j *job, fd seccomp.FD, self tag) {
	l := &w.table.slots[j.slot].lanes[j.lane]
	if !l.take(0, self) {
		return
	}
	defer l.release(self)
	if l.id() != j.id || l.ready != j.id {
		return
	}
	c := caller{tid: int(l.note.TID), memory: -1, valid: func() bool { return fd.Valid(j.id) }}
	call := l.note.Call
	resp, o, _ := l.deed.respond(&l.note, &c)
	c.close()
	if err := fd.Send(&resp); err != nil && err != unix.ENOENT {
		o = failure
	}
	l.clear()
	k, _ := kindOf(call)
	w.table.header.counts.add(k, o)
}
