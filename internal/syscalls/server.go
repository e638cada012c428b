// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// Server answers the calls of listeners that outlive it. What it has received is in a
// table, and the next server goes on with it. It is safe for concurrent use.
type Server struct {
	agent   *Agent
	table   *Table
	self    tag
	writers *writers
	drop    func(Name)
	log     *slog.Logger
	wake    chan struct{} // the sweeper

	mu     sync.Mutex
	served map[int]*served // by slot
}

// served is a listener that is served.
type served struct {
	slot     int
	listener *seccomp.Listener
	group    *container

	// Of the sweeper: the calls that no writer had taken when it looked last, and its own
	// memory to answer them with.
	mu     sync.Mutex
	seen   [lanes + 1]uint64
	answer *answerer
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	View  View
	Table *Table
	// Start starts a writer.
	Start StartFunc
	// Drop is called for each listener whose threads have all ended.
	Drop func(Name)
	Log  *slog.Logger
}

// NewServer returns a server. No other one uses the table.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{
		agent: newAgent(cfg.View, cfg.Log, &cfg.Table.header.counts), table: cfg.Table, self: newTag(workerTag, unix.Getpid()),
		drop: cfg.Drop, log: cfg.Log, wake: make(chan struct{}, 1), served: make(map[int]*served),
	}
	s.writers = &writers{start: cfg.Start, table: cfg.Table, log: cfg.Log, conn: -1, again: s.sweepSoon}
	go s.sweeper()
	return s
}

// Add serves a listener, beginning with the calls that a former server has left. It takes
// over fd. One that is served is not served twice.
func (s *Server) Add(n Name, fd int) {
	l, err := seccomp.NewListener(fd)
	if err != nil {
		s.log.Error("a listener of system calls cannot be used", "name", n.String(), "err", err)
		return
	}
	sl := &s.table.slots[n.Slot]
	if sl.generation.Load() != n.Generation {
		_ = l.Close() // nobody waits for its threads any more
		s.drop(n)
		return
	}
	container := sl.container()
	group := s.agent.join(container)
	v := &served{slot: n.Slot, listener: l, group: group, answer: newAnswerer(s.agent)}
	s.mu.Lock()
	_, twice := s.served[n.Slot]
	if !twice {
		s.served[n.Slot] = v
	}
	s.mu.Unlock()
	if twice {
		s.agent.leave(container)
		_ = l.Close() // another descriptor is open
		return
	}
	go func() {
		s.sweep(v, true)
		s.serve(sl, v)
		s.mu.Lock()
		delete(s.served, n.Slot)
		s.mu.Unlock()
		s.agent.leave(container)
		_ = l.Close() // nobody waits for its threads any more
		s.drop(n)
	}()
}

// serve answers calls until no thread has the filter any more.
func (s *Server) serve(sl *slot, v *served) {
	w := newAnswerer(s.agent)
	for pause := time.Millisecond; ; {
		i := s.takeLane(sl)
		l := &sl.lanes[i]
		err := v.listener.Receive(&l.note)
		if err != nil {
			l.clear()
			l.release(s.self)
		}
		switch {
		case err == io.EOF:
			s.waitForWriters(sl)
			return
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			// Of memory for example. To give up would be ENOSYS for all callers.
			s.log.Error("no notification received", "container", sl.container(), "err", err)
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = time.Millisecond
		sl.received.Add(1)
		time.Sleep(v.group.take(time.Now()))
		s.answer(w, v, i, l)
	}
}

// answer answers the call in lane i, which the server owns, or has a writer do so.
func (s *Server) answer(w *answerer, v *served, i int, l *lane) {
	n := l.note
	c := caller{tid: int(n.TID), memory: -1, valid: func() bool { return v.listener.Valid(n.ID) }}
	if _, ok := w.plan(&n, &c, &l.deed); !ok {
		resp := n.Continue()
		if err := v.listener.Send(&resp); err != nil && err != unix.ENOENT {
			s.log.Error("a system call is not answered", "err", err)
		}
		l.clear()
		l.release(s.self)
		return
	}
	l.ready = n.ID
	if !l.release(s.self) {
		return // the holder has answered it, because it took long
	}
	s.writers.send(&job{uint32(v.slot), uint32(i), n.ID}, v.listener.FD())
}

// maxLanePause bounds the wait for a lane that a caller's memory holds up.
const maxLanePause = 10 * time.Millisecond

// takeLane waits for a lane that is free, and takes it.
func (s *Server) takeLane(sl *slot) int {
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, maxLanePause) {
		for i := range lanes {
			l := &sl.lanes[i]
			if l.id() != 0 || !l.take(0, s.self) {
				continue
			}
			if l.id() == 0 {
				return i
			}
			l.release(s.self)
		}
		time.Sleep(pause)
	}
}

// waitForWriters waits until nobody else works for the slot any more: another listener
// gets it.
func (s *Server) waitForWriters(sl *slot) {
	for i := range sl.lanes {
		l := &sl.lanes[i]
		for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
			owner := l.ownerTag()
			if owner == s.self || owner != 0 && owner.alive() || !l.take(owner, s.self) {
				time.Sleep(pause)
				continue
			}
			l.clear()
			l.release(s.self)
			break
		}
	}
}

// sweepEvery is how often the calls in hand are looked at.
const sweepEvery = time.Second

// sweeper has calls answered again whose writer has ended.
func (s *Server) sweeper() {
	for {
		ended := false
		select {
		case <-s.wake:
			ended = true
		case <-time.After(sweepEvery):
		}
		for _, v := range s.all() {
			s.sweep(v, ended)
		}
	}
}

func (s *Server) all() []*served {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*served, 0, len(s.served))
	for _, v := range s.served {
		all = append(all, v)
	}
	return all
}

// sweepSoon has the sweeper look now: a writer has ended.
func (s *Server) sweepSoon() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sweep takes over the calls that nobody has in hand who could answer them. If unsent, no
// writer has been told of those that are ready.
func (s *Server) sweep(v *served, unsent bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	sl := &s.table.slots[v.slot]
	for i := range sl.lanes {
		l := &sl.lanes[i]
		owner, id := l.ownerTag(), l.id()
		stale := id != 0 && v.seen[i] == id
		v.seen[i] = 0
		switch {
		case owner == s.self, owner == 0 && id == 0, owner != 0 && owner.alive():
			continue
		case owner == 0 && !unsent && !stale:
			v.seen[i] = id // of the next time
			continue
		case owner == 0 && !unsent:
			s.writers.replace()
		}
		if !l.take(owner, s.self) {
			continue
		}
		if l.id() == 0 {
			l.release(s.self)
			continue
		}
		s.answer(v.answer, v, i, l)
	}
}

// Stats returns what Agent.Stats does, of all servers of the table.
func (s *Server) Stats() map[string]uint64 { return s.agent.Stats() }
