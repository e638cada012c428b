// SPDX-License-Identifier: Apache-2.0

// Package logqueue writes log lines to a descriptor without making anyone wait for
// its reader.
package logqueue

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// limit bounds what waits for the reader, in bytes.
const limit = 256 << 10

// A Queue takes lines and writes them to a descriptor from a goroutine of its own,
// which may block as long as it likes. Lines that do not fit are dropped and counted,
// and when lines can be written again one says how many. It is safe for concurrent use.
type Queue struct {
	write  func([]byte) (int, error)
	wait   func() // until write is worth another attempt
	notice func(w io.Writer, dropped int)

	mu      sync.Mutex
	lines   []byte
	began   time.Time // when the current write began
	dropped int
	total   uint64        // of dropped lines
	failed  bool          // the last write failed; the notice waits for the next line
	idle    chan struct{} // closed when all is written; nil if nothing is
}

// New returns a Queue for a descriptor, which may be non-blocking.
func New(fd int) *Queue {
	return &Queue{
		write: func(p []byte) (int, error) { return unix.Write(fd, p) },
		wait:  func() { _, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1) },
		notice: func(w io.Writer, dropped int) {
			fmt.Fprintf(w, "%d lines were dropped: the log was not read\n", dropped)
		},
	}
}

// SetNotice sets what writes the line about dropped lines. It must be called before
// Write.
func (q *Queue) SetNotice(f func(w io.Writer, dropped int)) { q.notice = f }

// Write takes one line or several. It never waits, and always succeeds.
func (q *Queue) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// Once lines are dropped all are, until the notice is written in their place.
	if q.dropped > 0 && !q.failed || len(q.lines)+len(p) > limit {
		n := bytes.Count(p, []byte("\n"))
		q.dropped += n
		q.total += uint64(n)
		return len(p), nil
	}
	q.lines = append(q.lines, p...)
	if q.idle == nil {
		q.idle, q.began = make(chan struct{}), time.Now()
		go q.drain()
	}
	return len(p), nil
}

// Dropped returns how many lines were dropped.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

// Flush waits until all is written, or until the reader has kept the Queue waiting for
// patience.
func (q *Queue) Flush(patience time.Duration) {
	q.mu.Lock()
	idle, left := q.idle, patience-time.Since(q.began)
	q.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-time.After(left):
	}
}

// drain writes until nothing is left.
func (q *Queue) drain() {
	for {
		lines, dropped := q.next()
		if lines == nil {
			return
		}
		if n, err := q.writeAll(lines); err != nil {
			q.mu.Lock()
			q.failed = true
			if dropped == 0 { // not the notice
				dropped = bytes.Count(lines[n:], []byte("\n"))
				q.total += uint64(dropped)
			}
			waiting := bytes.Count(q.lines, []byte("\n"))
			q.dropped += dropped + waiting
			q.total += uint64(waiting)
			q.lines = nil
			q.mu.Unlock()
		}
	}
}

// next returns what to write now, or nil when that is all. If it is the notice it
// returns how many lines that is about.
func (q *Queue) next() (lines []byte, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.began = time.Now()
	switch {
	case q.dropped > 0 && len(q.lines) == 0 && !q.failed, q.dropped > 0 && len(q.lines) > 0 && q.failed:
		var b bytes.Buffer
		q.notice(&b, q.dropped)
		dropped, q.dropped, q.failed = q.dropped, 0, false
		return b.Bytes(), dropped
	case len(q.lines) > 0:
		lines, q.lines = q.lines, nil
		return lines, 0
	}
	close(q.idle)
	q.idle = nil
	return nil, 0
}

func (q *Queue) writeAll(p []byte) (written int, err error) {
	for written < len(p) {
		n, err := q.write(p[written:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			q.wait()
		case err != nil:
			return written, err
		default:
			written += n
		}
	}
	return written, nil
}

// Unshare gives fd, a pipe or a terminal, an open file description of this process's
// own that does not block, so that not even the Go runtime waits for the reader when
// it prints why it crashes. Whoever shares the former description keeps it as it is.
// Anything else, a socket for example, stays as it is.
func Unshare(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat of descriptor %d: %w", fd, err)
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFIFO && t != unix.S_IFCHR {
		return nil
	}
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open descriptor %d anew: %w", fd, err)
	}
	defer unix.Close(own)
	if err := unix.Dup3(own, fd, 0); err != nil {
		return fmt.Errorf("dup3 to descriptor %d: %w", fd, err)
	}
	return nil
}
