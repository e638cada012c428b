// SPDX-License-Identifier: Apache-2.0

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

// suspectTime is how long the next suspect waits for one that is not done.
const suspectTime = 50 * time.Millisecond

// suspect is a request that is to be tried alone. It is decoded beforehand: its record
// may become another request's when a signal ends it.
type suspect struct {
	turn    *Turn
	execute func(*Server, *Turn) (int, error)
	err     error
}

// takeUp finds out what a former process has left.
func (s *Server) takeUp() {
	left := s.journal.TakeUp(s.crashed)
	s.left = left.Ready
	for _, r := range left.Suspects {
		t := &Turn{server: s, wake: make(chan error, 1)}
		t.start(r)
		execute, err := s.decode(t)
		t.blocked = true
		s.waits.expect(t)
		s.suspects = append(s.suspects, suspect{t, execute, err})
	}
	for _, r := range left.Refused {
		if h := decode[fuse.InHeader](r.Bytes()); h != nil {
			s.log.Error("processes crashed over a request: answered EIO", "unique", h.Unique, "opcode", h.Opcode, "node", h.NodeId)
			s.send(make([]byte, outHeaderSize), h.Unique, 0, syscall.EIO)
		}
		r.Done()
	}
}

// replay makes t the turn of the next request that a former process has left, and
// returns false if there is none. When it comes to the end it lets the suspects go.
func (s *Server) replay(t *Turn) bool {
	if len(s.left) > 0 {
		t.start(s.left[0])
		s.left = s.left[1:]
		return true
	}
	if suspects := s.suspects; suspects != nil {
		s.suspects = nil
		s.active.Go(func() { s.trySuspects(suspects) })
	}
	return false
}

// trySuspects executes one request after the other. It goes on without one that
// takes long.
func (s *Server) trySuspects(suspects []suspect) {
	for _, u := range suspects {
		t := u.turn
		if !s.waits.isPending(t.unique) {
			continue // its caller got a signal
		}
		done := make(chan struct{})
		s.active.Go(func() {
			defer close(done)
			t.entry.Try()
			t.out = make([]byte, outHeaderSize, smallReply)
			s.execute(t, u.execute, u.err)
		})
		select {
		case <-done:
		case <-time.After(suspectTime):
		}
	}
}
