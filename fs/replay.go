package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// maxAttempts is how often a request may be tried by processes that crash before
// it is answered EIO: it is likely what they crash of, and all containers wait
// for the one that asks it.
const maxAttempts = 2

// start takes up what a former process has left, and then begins to read.
func (s *Server) start() {
	defer s.active.Done()
	w := s.slow.worker()
	w.replayed, w.alone = true, s.crashed
	for _, i := range s.journal.left() {
		s.replayRecord(w, i)
	}
	s.replaySlot(w)
	w.replayed, w.alone = false, false
	s.slow.recycle(w)
	for _, l := range []*slow{&s.slow, &s.hostReads} {
		for s.hire(l) {
		}
	}
	s.active.Add(1)
	go s.readLoop()
}

// replayRecord queues the slow request in a record, or works on it at once where
// the former process crashed.
func (s *Server) replayRecord(w *worker, i int32) {
	e := &s.journal.records()[i]
	b := e.request[:e.length]
	if h := decode[fuse.InHeader](b); h != nil && s.mayTry(w, h, &e.attempts) {
		w.recorded, w.record = true, i
		s.handle(w, b)
		w.recorded = false
		if s.isPending(h.Unique) {
			return
		}
	}
	s.journal.strike(i)
}

// replaySlot is replayRecord for the request that the reader had in hand.
func (s *Server) replaySlot(w *worker) {
	b := s.journal.pendingSlot()
	// Where it is pending, the process died between noting the request as a slow
	// one and clearing the slot.
	if h := decode[fuse.InHeader](b); h != nil && !s.isPending(h.Unique) {
		head := s.journal.header()
		if head.slotUnique != h.Unique {
			head.slotUnique, head.attempts = h.Unique, 0
		}
		if s.mayTry(w, h, &head.attempts) {
			s.handle(w, b)
		}
	}
	s.journal.clearSlot()
}

// mayTry counts an attempt after a crash. Where there were too many it answers the
// request with EIO and returns false.
func (s *Server) mayTry(w *worker, h *fuse.InHeader, attempts *uint32) bool {
	if !s.crashed {
		return true
	}
	if *attempts >= maxAttempts {
		s.log.Error("processes crashed over a request: answered EIO", "unique", h.Unique, "opcode", h.Opcode, "node", h.NodeId, "attempts", maxAttempts)
		s.send(w.out, h.Unique, 0, syscall.EIO)
		return false
	}
	*attempts++
	return true
}

// isPending tells whether the request is a slow one that is not answered yet.
func (s *Server) isPending(unique uint64) bool {
	return s.slow.isPending(unique) || s.hostReads.isPending(unique)
}
