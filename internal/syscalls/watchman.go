// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// A call that nobody has received or answered when the watchman has looked at it lateLooks
// times, one lookEvery after the other, is left to the kernel.
const (
	lookEvery = 500 * time.Millisecond
	lateLooks = 3
)

// Watchman lets the kernel carry out the calls that no server answers for a second,
// whatever the reason, so that no caller waits for ever. It is safe for concurrent use.
type Watchman struct {
	table *Table
	self  tag
	log   *slog.Logger
	looks int // lateLooks, but in tests
	late  atomic.Uint64
	quiet atomic.Bool // said that calls are late

	mu        sync.Mutex
	listeners map[int]*watched // by slot
	looking   bool
}

// watched is a listener with what was seen of it.
type watched struct {
	name      Name
	container string
	fd        seccomp.FD
	calls     [lanes + 1]struct {
		id    uint64
		looks int
	}
	received uint64 // when there was something to receive
	looks    int
	draining sync.Mutex
	users    atomic.Int32 // of fd
}

func (v *watched) release() {
	if v.users.Add(-1) == 0 {
		unix.Close(int(v.fd))
	}
}

// NewWatchman returns a watchman of the listeners that are in table.
func NewWatchman(table *Table, log *slog.Logger) *Watchman {
	return &Watchman{table: table, self: newTag(holderTag, unix.Getpid()), log: log, looks: lateLooks, listeners: make(map[int]*watched)}
}

// Admit returns the name of a new listener of the named container, which is watched from now
// on. It returns an error that wraps ErrTooMany if there are too many.
func (w *Watchman) Admit(container string, fd int) (n Name, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	container = container[:min(len(container), maxNameLen)]
	free, same := -1, 0
	for i := MaxListeners - 1; i >= 0; i-- {
		switch v := w.listeners[i]; {
		case v == nil:
			free = i
		case v.container == container:
			same++
		}
	}
	if free < 0 || same >= maxPerContainer {
		return n, ErrTooMany
	}
	n = Name{free, w.table.begin(free, container)}
	return n, w.watch(n, fd)
}

// Watch watches a listener that was admitted by a former process.
func (w *Watchman) Watch(n Name, fd int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.table.slots[n.Slot].lanes {
		// This process, before it executed another program.
		w.table.slots[n.Slot].lanes[i].release(w.self)
	}
	return w.watch(n, fd)
}

func (w *Watchman) watch(n Name, fd int) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("dup of a seccomp listener: %w", err)
	}
	v := &watched{name: n, container: w.table.slots[n.Slot].container(), fd: seccomp.FD(own)}
	v.users.Store(1)
	w.listeners[n.Slot] = v
	if !w.looking {
		w.looking = true
		go w.look()
	}
	return nil
}

// Forget ends the watch over a listener.
func (w *Watchman) Forget(n Name) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.listeners[n.Slot]; v != nil && v.name == n {
		delete(w.listeners, n.Slot)
		v.release()
	}
}

// Count returns how many listeners there are, and how many calls were left to the kernel.
func (w *Watchman) Count() (listeners int, late uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.listeners), w.late.Load()
}

// look looks at the calls as long as there is a listener.
func (w *Watchman) look() {
	for {
		time.Sleep(lookEvery)
		w.mu.Lock()
		if len(w.listeners) == 0 {
			w.looking = false
			w.mu.Unlock()
			return
		}
		late := w.late.Load()
		for _, v := range w.listeners {
			w.lookAt(v)
		}
		w.mu.Unlock()
		if now := w.late.Load(); now > late && !w.quiet.Swap(true) {
			w.log.Warn("no worker answers system calls: the kernel carries them out")
		} else if now == late {
			w.quiet.Store(false)
		}
	}
}

func (w *Watchman) lookAt(v *watched) {
	s := &w.table.slots[v.name.Slot]
	for i := range s.lanes {
		l, seen := &s.lanes[i], &v.calls[i]
		switch id := l.id(); {
		case id == 0 || id != seen.id:
			seen.id, seen.looks = id, 1
		case seen.looks < w.looks:
			seen.looks++
		default:
			w.leave(v, l, id)
		}
	}
	pending, _, err := v.fd.Poll()
	received := s.received.Load()
	switch {
	case err != nil || !pending || received != v.received:
		v.received, v.looks = received, 1
	case v.looks < w.looks:
		v.looks++
	case v.draining.TryLock():
		v.users.Add(1)
		// To receive may wait, if a worker is quicker.
		go w.drain(v, &s.lanes[lanes])
	}
}

// leave lets the kernel carry out a call that was received, unless a writer has it in hand:
// what that writes would come after the call has returned.
func (w *Watchman) leave(v *watched, l *lane, id uint64) {
	owner := l.ownerTag()
	if owner == w.self || owner.what() == writerTag && owner.alive() || !l.take(owner, w.self) {
		return
	}
	defer l.release(w.self)
	if l.id() == id {
		w.answer(v, l)
	}
}

// drain lets the kernel carry out what nobody receives.
func (w *Watchman) drain(v *watched, l *lane) {
	defer v.release()
	defer v.draining.Unlock()
	for range maxDrain {
		if pending, _, err := v.fd.Poll(); err != nil || !pending {
			return
		}
		if l.id() != 0 || !l.take(0, w.self) {
			return
		}
		err := v.fd.Receive(&l.note)
		if err == nil {
			w.answer(v, l)
		}
		l.release(w.self)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return
		}
	}
}

// maxDrain bounds how many calls of a listener are received at once.
const maxDrain = 64

// answer lets the kernel carry out the call in l.
func (w *Watchman) answer(v *watched, l *lane) {
	resp := (&seccomp.Notification{ID: l.id()}).Continue()
	if err := v.fd.Send(&resp); err == nil {
		w.late.Add(1)
	}
	l.clear()
}
