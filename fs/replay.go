package fs

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// What a former process has left in the journal is executed by the same code as what
// comes from the kernel, and before it. Only after a crash there is more to do: one
// of the requests may be what the process crashed of. Those that no crashed process
// has replayed are replayed at once. The others are suspects: they are tried last,
// one by one, while the reader serves what is new. One that was tried alone by a
// process that crashed is answered EIO.

const (
	// maxAttempts is how often a request may be tried by processes that crash before
	// it is answered EIO: it is likely what they crash of, and all containers wait
	// for the one that asks it.
	maxAttempts = 2
	// suspectTime is how long the next suspect waits for one that is not done.
	suspectTime = 50 * time.Millisecond
)

// takeUp finds out what a former process has left.
func (s *Server) takeUp() {
	records := s.journal.left()
	known := make(map[uint64]bool, len(records))
	for _, i := range records {
		if h := decode[fuse.InHeader](s.journal.request(i)); h != nil {
			known[h.Unique] = true
		}
	}
	if i, ok := s.recordSlot(known); ok {
		records = append(records, i)
	}
	for _, i := range records {
		attempts := &s.journal.records()[i].attempts
		switch {
		case !s.crashed:
		case *attempts >= maxAttempts:
			s.refuse(i)
			continue
		case *attempts > 0:
			s.suspect(i)
			continue
		default:
			*attempts++
		}
		s.left = append(s.left, i)
	}
}

// recordSlot makes a record of the request that the reader had in hand. After a crash
// it is a suspect.
func (s *Server) recordSlot(known map[uint64]bool) (record int32, ok bool) {
	defer s.journal.clearSlot()
	b := s.journal.pendingSlot()
	h := decode[fuse.InHeader](b)
	// Where it is known, the process died between noting the request and clearing the
	// slot.
	if h == nil || known[h.Unique] {
		return 0, false
	}
	record, ok = s.journal.note(b)
	switch {
	case !ok:
		s.send(make([]byte, outHeaderSize), h.Unique, 0, syscall.EAGAIN)
	case s.crashed:
		s.journal.records()[record].attempts = 1
	}
	return record, ok
}

// refuse answers the request in a record with EIO.
func (s *Server) refuse(record int32) {
	if h := decode[fuse.InHeader](s.journal.request(record)); h != nil {
		s.log.Error("processes crashed over a request: answered EIO", "unique", h.Unique, "opcode", h.Opcode, "node", h.NodeId, "attempts", maxAttempts)
		s.send(make([]byte, outHeaderSize), h.Unique, 0, syscall.EIO)
	}
	s.journal.strike(record)
}

// suspect makes a turn of the request in a record, to be tried later.
func (s *Server) suspect(record int32) {
	t := &Turn{server: s}
	t.start(s.journal.request(record), record, true)
	t.blocked = true
	if h := decode[fuse.InHeader](t.in); h != nil {
		t.unique = h.Unique
	}
	s.waits.expect(t)
	s.suspects = append(s.suspects, t)
}

// replay makes t the turn of the next request that a former process has left, and
// returns false if there is none. When it comes to the end it lets the suspects go.
func (s *Server) replay(t *Turn) bool {
	if len(s.left) == 0 {
		if s.suspects != nil {
			suspects := s.suspects
			s.suspects = nil
			s.active.Go(func() { s.trySuspects(suspects) })
		}
		return false
	}
	record := s.left[0]
	s.left = s.left[1:]
	t.start(s.journal.request(record), record, true)
	return true
}

// trySuspects executes one request after the other. It goes on without one that
// takes long.
func (s *Server) trySuspects(suspects []*Turn) {
	for _, t := range suspects {
		if !s.waits.isPending(t.unique) {
			continue
		}
		done := make(chan struct{})
		s.active.Go(func() {
			defer close(done)
			s.journal.records()[t.record].attempts++
			t.out = make([]byte, outHeaderSize, smallReply)
			s.serve(t)
		})
		select {
		case <-done:
		case <-time.After(suspectTime):
		}
	}
}
