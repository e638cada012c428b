package fs

import (
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// request is one that may be slow, taken out of the request buffer.
type request struct {
	unique uint64
	op     uint32
	id     NodeID
	node   *node // nil where id is an entry of the host's
	caller Caller
	fh     uint64 // 0: none
	off    uint64 // READ and READDIR only, in bytes; and so is size
	size   int
	mask   uint32 // ACCESS only
	name   string // LOOKUP only
	// owner is whom it belongs to, while it is slow.
	owner uint64
	// record is where the journal has it, while it is slow.
	record int32
	// replayed says that a process that died may have answered it already.
	replayed bool
	text     string // WRITE only: what was written, or its beginning
}

// key names what only one request at a time may work on, 0 for nothing. A file of
// the host's that does not answer takes one worker, not all.
func (r *request) key() NodeID {
	if r.op == opRead && r.node == nil {
		return r.id
	}
	return 0
}

// isCold says that err asks for a second call that may wait.
func isCold(err error) bool {
	return err == ErrCold || err != nil && errors.Is(err, ErrCold)
}

// answer answers r, which w.in holds, at once where that is cheap. Else it starts
// the next reader, works on r, and then on what has been queued meanwhile; it
// returns true then. Where there are enough workers it queues r.
func (s *Server) answer(w *worker, r request) (handedOn bool) {
	n, err := s.do(w, r, false)
	if !isCold(err) {
		s.reply(w, r.unique, n, err)
		return false
	}
	r.replayed = w.replayed
	if s.owner != nil {
		r.owner = s.owner(r.caller)
	}
	l := s.queueFor(&r)
	noted := false
	if !w.alone {
		if !w.recorded && l.isFull(r.owner) {
			s.reply(w, r.unique, 0, syscall.EAGAIN)
			return false
		}
		r.record, noted = s.note(w)
	}
	if !noted {
		// Where there is no room in the journal all others wait: a request that
		// waits in the memory of this process only would be lost with it.
		n, err := s.doSlowly(w, r)
		s.reply(w, r.unique, n, err)
		return false
	}
	if !l.begin(r) {
		return false
	}
	s.journal.clearSlot()
	s.active.Add(1)
	go s.readLoop()
	s.work(w, l, r)
	return true
}

// queueFor is where r belongs.
func (s *Server) queueFor(r *request) *slow {
	if r.key() != 0 {
		return &s.hostReads
	}
	return &s.slow
}

// note puts the request in w.in into the journal's records, if it is not there.
func (s *Server) note(w *worker) (record int32, ok bool) {
	if w.recorded {
		return w.record, true
	}
	return s.journal.note(w.in)
}

// work answers r, and then what has been queued in l meanwhile.
func (s *Server) work(w *worker, l *slow, r request) {
	for more := true; more; {
		w.replayed = r.replayed
		n, err := s.doSlowly(w, r)
		if record, ok := l.claim(r.unique); ok {
			s.reply(w, r.unique, n, err)
			s.journal.strike(record)
		} else if r.op == opOpen && err == nil {
			// Nobody will release what nobody has been told of.
			s.handles.release(placed[fuse.OpenOut](w.out[:cap(w.out)]).Fh)
		} else if r.op == opWrite && err == nil {
			// The writer was told that nothing came of it, and may have
			// closed the file since.
			s.triggers.Release(r.fh)
		}
		if r, more = l.next(r); more {
			s.hire(l)
		}
	}
	w.replayed = false
}

// hire starts a worker if there is something for it to do that waits for nothing. It
// tells whether there was.
func (s *Server) hire(l *slow) bool {
	r, ok := l.hire()
	if ok {
		s.active.Go(func() {
			w := s.slow.worker()
			defer s.slow.recycle(w)
			s.work(w, l, r)
		})
	}
	return ok
}

// doSlowly is do with waiting.
func (s *Server) doSlowly(w *worker, r request) (int, error) {
	n, err := s.do(w, r, true)
	if isCold(err) {
		// It may wait and does not: asking again could go on for ever.
		err = syscall.EIO
	}
	return n, err
}

// do makes the reply to r in w.out and returns its length in bytes.
func (s *Server) do(w *worker, r request, wait bool) (int, error) {
	switch {
	case r.op == opRead:
		return s.read(w, r, wait)
	case r.node != nil && r.op == opGetattr:
		return s.getattr(w, r, wait)
	case r.op == opWrite:
		return s.write(w, r, wait)
	default:
		return s.host(w, r, wait)
	}
}

// drop empties the queues of a connection that has ended.
func (s *Server) drop() {
	s.slow.drop()
	s.hostReads.drop()
}

// interruptGrace is how long an interrupted request may still finish. A caller
// whose signal handler restarts system calls (SA_RESTART) expects a read of /proc
// not to fail with EINTR, and nearly all slow requests take a few milliseconds.
const interruptGrace = 100 * time.Millisecond

// interrupt lets go of a slow request whose caller got a signal: it is answered
// with EINTR after a grace, so that the caller returns to user mode, or dies, and
// the result of the work is dropped. A request that is not pending has been
// answered already. There is no reply to an INTERRUPT itself.
func (s *Server) interrupt(b []byte) {
	in := decode[fuse.InterruptIn](b)
	if in == nil || !s.isPending(in.Unique) {
		return
	}
	unique := in.Unique
	s.active.Add(1)
	time.AfterFunc(interruptGrace, func() {
		defer s.active.Done()
		record, ok := s.slow.claim(unique)
		if !ok {
			record, ok = s.hostReads.claim(unique)
		}
		if ok {
			s.send(make([]byte, outHeaderSize), unique, 0, syscall.EINTR)
			s.journal.strike(record)
		}
	})
}
