// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"container/list"
	"fmt"
	"runtime/debug"
	"syscall"
	"time"

	"vprocfs/fs/journal"
)

// Turn is one request on its way through the server, and the memory that the reply is made
// in. It belongs to the goroutine that executes the request, and is valid until the method
// that it was given to returns.
type Turn struct {
	server *Server
	request

	// out is the reply: the header, then the payload, 8-byte aligned. Its length is
	// that of a header between requests; its capacity fits every fixed-size reply,
	// and grows with the content.
	out []byte

	// blocked is set once another goroutine reads. blockErr is what Block returned.
	blocked  bool
	blockErr error
	// aside is set from when t was put aside (rush.go) or delayed until it blocks.
	aside bool
	// bulky is set if the turn kept a large reply buffer when it blocked.
	bulky bool

	// The rest is the queue's, below its lock. holder is whose share the turn takes, nil
	// if none, queued its place in the holder's queue while it waits, and wake gets one
	// value when that ends.
	queue  *queue
	holder *owner
	queued *list.Element
	wake   chan error
	// isDelayed is set while the turn is delayed. wake gets one value if that ends early.
	isDelayed bool
}

// request is what a Turn asks for.
type request struct {
	unique uint64
	op     uint32
	id     NodeID
	node   *node // nil for an entry of the host's
	caller Caller
	flags  uint32 // OPEN: those of open(2)
	fh     uint64 // 0: none
	off    uint64 // READ, READDIR and WRITE, in bytes; so is size
	size   int
	mask   uint32 // ACCESS
	// name is what LOOKUP looks for. It is valid until Block.
	name        []byte
	text        string // WRITE: the first bytes of what was written
	kh          uint64 // POLL
	interrupted uint64 // INTERRUPT: the unique of another request
	// events are what POLL is interested in, valid what SETATTR sets.
	events, valid uint32
	// owner is whom the request is accounted to, 0 as long as it is not known.
	owner uint64
	// holdsInode says that the kernel holds the lock of the inode until the answer.
	holdsInode bool
	// began is when the work on it began, counted from Server.start; 0: nobody asks.
	began time.Duration
	// delayed is how long it was delayed.
	delayed time.Duration
	// entry is the request as it came, in the journal.
	entry journal.Request
}

// replayed reports whether a process that died may have answered the request already.
func (r *request) replayed() bool { return r.entry.Replayed() }

// NewTurn returns a Turn for a caller that asks outside any request. Its Block does
// nothing.
func NewTurn(c Caller) *Turn {
	return &Turn{request: request{caller: c}, blocked: true}
}

// smallReply is the capacity in bytes of the reply buffer of a new Turn. keepReply is
// the capacity over which a buffer is not kept for the next request.
const (
	smallReply = 4096
	keepReply  = 1 << 20
)

func newTurn(s *Server) *Turn {
	return &Turn{server: s, out: make([]byte, outHeaderSize, smallReply), wake: make(chan error, 1)}
}

// Caller returns the thread that made the request.
func (t *Turn) Caller() Caller { return t.caller }

// ID returns the kernel's number of the request, 0 if there is none. A request that
// is executed again after a crash has the same.
func (t *Turn) ID() uint64 { return t.unique }

// SetOwner accounts the request to an owner. It is for callers that know the owner without
// a system call.
func (t *Turn) SetOwner(owner uint64) { t.owner = owner }

// Block must be called before work that may block or take long. It lets another
// goroutine take over reading, and waits until the owner's share of such work admits
// the turn. owner is the outermost container of the caller, 0 if it is not known yet:
// the Source is asked for it then.
//
// It returns EAGAIN if too many requests wait or others would wait for this one, EINTR if
// the caller got a signal, and ENODEV if the connection has ended. The request must be
// answered with the error. A second call returns what the first returned.
func (t *Turn) Block(owner uint64) error {
	if t.holdsInode {
		t.blockErr = errHoldsInode
	}
	if (!t.blocked || t.aside) && t.blockErr == nil {
		t.blockErr = t.server.block(t, owner)
	}
	return t.blockErr
}

// What Block returns to a turn that must not block.
var (
	errHoldsInode = fmt.Errorf("others wait for the lock of the inode: %w", syscall.EAGAIN)
	errQueueFull  = fmt.Errorf("too many requests of the owner wait: %w", syscall.EAGAIN)
	errNoRecord   = fmt.Errorf("too many requests are noted: %w", syscall.EAGAIN)
)

func (s *Server) block(t *Turn, owner uint64) error {
	q := s.waits.queueFor(&t.request)
	if owner != 0 && s.waits.isFull(q, owner) {
		return errQueueFull
	}
	if t.aside {
		t.aside = false
		s.waits.yield(t)
	} else if !s.handOver(t) {
		return errNoRecord
	}
	if owner == 0 {
		owner = s.src.Owner(t.caller)
		s.handles.learnOwner(t.caller.PID, owner)
	}
	t.owner = owner
	return s.waits.enter(q, t)
}

// handOver lets another goroutine take over reading. It returns false if too many requests
// are noted.
func (s *Server) handOver(t *Turn) bool {
	if !t.entry.Note() {
		return false
	}
	t.name = nil
	t.blocked = true
	s.counters.blocked.Add(1)
	if t.began == 0 {
		t.began = time.Since(s.start)
	}
	s.waits.expect(t)
	s.active.Add(1)
	go s.readLoop()
	return true
}

// start makes t the turn of a request.
func (t *Turn) start(entry journal.Request) {
	t.request = request{entry: entry}
	t.blocked, t.aside, t.blockErr = false, false, nil
}

// finish answers the request and forgets it: with n bytes of payload of t.out, or
// with err.
func (s *Server) finish(t *Turn, n int, err error) {
	mine := !t.blocked || s.waits.claim(t.unique) == t
	switch {
	case mine:
		if err != errNoReply {
			s.reply(t, n, err)
		}
		t.entry.Done()
	case err == nil:
		s.undo(t)
	}
	s.count(t, n, err)
	if t.blocked {
		s.waits.leave(t)
	}
}

// undo takes back what a request did whose caller was told that it was interrupted.
func (s *Server) undo(t *Turn) {
	switch t.op {
	case opOpen:
		s.handles.release(t.fh)
	case opWrite:
		// The writer may have closed the file since.
		s.triggers.Release(t.fh)
	}
}

// reply sends n bytes of payload of t.out, or err. The kernel refuses the reply to a
// request that was aborted meanwhile with ENOENT, which is no error.
func (s *Server) reply(t *Turn, n int, err error) {
	s.send(t.out[:cap(t.out)], t.unique, n, toErrno(err))
	if c := cap(t.out); c > keepReply || c > smallReply && s.waits.isBulky() {
		t.out = make([]byte, outHeaderSize, smallReply)
	}
}

// send is reply with a buffer and an errno.
func (s *Server) send(out []byte, unique uint64, n int, e syscall.Errno) {
	length := putHeader(out, unique, n, e)
	if errno := s.sys.write(s.conn.fd, out[:length]); !isTaken(errno) {
		s.sendAgain(out[:length], unique, errno)
	}
}

// isTaken reports whether the kernel has taken a reply, or wants none: the request was
// aborted, or the connection has ended.
func isTaken(errno syscall.Errno) bool {
	return errno == 0 || errno == syscall.ENOENT || errno == syscall.ENODEV
}

// sendAgain repeats a reply that failed with errno, such as ENOMEM, for some
// milliseconds. Then it answers EIO: a caller without an answer would hang.
func (s *Server) sendAgain(out []byte, unique uint64, errno syscall.Errno) {
	s.counters.writeErrors.Add(1)
	s.log.Error("write "+devFuse, "unique", unique, "bytes", len(out), "err", errno)
	for delay := minDelay; delay <= 4*minDelay && errno != syscall.EINVAL; delay *= 2 {
		time.Sleep(delay)
		if errno = s.sys.write(s.conn.fd, out); isTaken(errno) {
			return
		}
	}
	_ = s.sys.write(s.conn.fd, out[:putHeader(out, unique, 0, syscall.EIO)]) // there is no other way to answer
}

// setOut makes out, which may have moved, the reply buffer.
func (t *Turn) setOut(out []byte) {
	if cap(out) < smallReply {
		out = append(make([]byte, 0, smallReply), out...)
	}
	t.out = out[:outHeaderSize]
}

// makeContent appends the content of the file to the header in t.out and returns it.
// It is valid until the reply is sent.
func (s *Server) makeContent(t *Turn) (content []byte, err error) {
	defer s.recovered(t, &err)
	var out []byte
	if t.node != nil {
		out, err = s.src.Append(t.out[:outHeaderSize], t.id, t)
	} else {
		out, err = s.readHost(t.out[:outHeaderSize], t)
	}
	if err != nil {
		return nil, err
	}
	t.setOut(out)
	return t.out[outHeaderSize:len(out)], nil
}

// recovered, when deferred, turns a panic of the Source into EIO.
func (s *Server) recovered(t *Turn, err *error) {
	if p := recover(); p != nil {
		s.counters.panics.Add(1)
		s.log.Error("panic while content was made", "node", uint64(t.id), "pid", t.caller.PID, "panic", p, "stack", string(debug.Stack()))
		*err = syscall.EIO
	}
}
