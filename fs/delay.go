// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"syscall"
	"time"

	"vprocfs/fs/journal"
)

const (
	// maxDelayed is how many turns of all owners may be delayed at the same time. One
	// owner may have an eighth of what the others leave; further turns are refused
	// (EAGAIN).
	maxDelayed = journal.MaxRecords / 4
	// nearlyOver is how much of a delay a signal cuts short. If more is left the caller
	// gets EINTR, which few programs expect of a read of /proc; if it never got that,
	// signals would be a way around all delays.
	nearlyOver = time.Second
)

// delays counts the turns that are delayed. It belongs to waits, below its lock.
type delays struct {
	all int
	of  map[uint64]int // by owner
}

func (d *delays) isFull(owner uint64) bool {
	left := maxDelayed - d.all + d.of[owner]
	return d.of[owner] >= left/ownerShare
}

func (d *delays) add(owner uint64) {
	d.all++
	d.of[owner]++
}

func (d *delays) drop(owner uint64) {
	d.all--
	if d.of[owner]--; d.of[owner] == 0 {
		delete(d.of, owner)
	}
}

// Delay lets another goroutine take over reading, and returns after the time d: the owner of
// the turn reads more than it may. No thread waits, and no other turn. A signal to the
// caller, or its end, ends the wait within 100 ms: Delay returns nil if less than a second
// of it was left, else EINTR.
//
// It returns EAGAIN if too many turns of the owner are delayed, or if others would wait for
// this one, and ENODEV if the connection has ended. The request must be answered with the
// error.
func (t *Turn) Delay(owner uint64, d time.Duration) error {
	if t.server == nil {
		return nil
	}
	if t.holdsInode {
		t.blockErr = errHoldsInode
	}
	if t.blockErr == nil {
		t.blockErr = t.server.delay(t, owner, d)
	}
	return t.blockErr
}

func (s *Server) delay(t *Turn, owner uint64, d time.Duration) error {
	if t.blocked {
		s.waits.yield(t)
	} else if !s.handOver(t) {
		return errNoRecord
	}
	// It has no place in a queue: Block gets one.
	t.aside, t.owner = true, owner
	begun := time.Now()
	err := s.waits.delay(t, d)
	t.delayed += time.Since(begun)
	if err == syscall.EINTR && time.Since(begun) >= d-nearlyOver {
		return nil
	}
	return err
}

// delay returns after d, or with the error that ends the wait.
func (w *waits) delay(t *Turn, d time.Duration) error {
	if err := w.beginDelay(t); err != nil {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-t.wake:
		return err
	case <-timer.C:
	}
	w.mu.Lock()
	over := w.endDelay(t)
	w.mu.Unlock()
	if over {
		return nil
	}
	return <-t.wake // at the same moment
}

func (w *waits) beginDelay(t *Turn) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ended:
		return syscall.ENODEV
	case w.pending[t.unique] != t:
		return syscall.EINTR
	case w.delays.isFull(t.owner):
		return errQueueFull
	}
	w.delays.add(t.owner)
	t.isDelayed = true
	return nil
}

// endDelay ends the delay of t. It returns false if t is not delayed. w.mu is held.
func (w *waits) endDelay(t *Turn) bool {
	if !t.isDelayed {
		return false
	}
	t.isDelayed = false
	w.delays.drop(t.owner)
	return true
}

// cutShort ends the delay of a pending turn with EINTR. It returns false if the turn is not
// delayed.
func (w *waits) cutShort(unique uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.pending[unique]
	if t == nil || !w.endDelay(t) {
		return false
	}
	t.wake <- syscall.EINTR
	return true
}
