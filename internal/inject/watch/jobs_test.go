// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"vprocfs/internal/attach"
)

// failingAttacher fails as often as errs says, and notes how often it was called.
type failingAttacher struct {
	mu           sync.Mutex
	errs         []error
	start, alone int
}

func (a *failingAttacher) Start(_ int, _ uint64, done func([]attach.Result, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.start++
	go done(nil, a.next())
}

func (a *failingAttacher) AttachAlone(context.Context, int, uint64) ([]attach.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.alone++
	return nil, a.next()
}

// next returns the next error. mu is held.
func (a *failingAttacher) next() error {
	if len(a.errs) == 0 {
		return nil
	}
	err := a.errs[0]
	a.errs = a.errs[1:]
	return err
}

// TestContainerWhoseHelperIsKilledIsAttached: nobody else will do it.
func TestContainerWhoseHelperIsKilledIsAttached(t *testing.T) {
	a := &failingAttacher{errs: []error{attach.ErrEnded}}
	cfg := config(Rules{Attach: []string{"/"}}, a, io.Discard)
	start(t, cfg)
	startProcess(t)
	eventually(t, "the container", func() bool { return cfg.Stats.Status().Attached > 0 })
	if s := cfg.Stats.Status(); a.alone == 0 || len(s.Refused) > 0 {
		t.Errorf("%d helpers of their own; %+v", a.alone, s)
	}
}

// TestContainerThatCouldNotBeAttachedIsTriedAgain: the daemon was not there.
func TestContainerThatCouldNotBeAttachedIsTriedAgain(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("10", 1, "host", "1", "/system.slice/runc", hostRoot)
	fake.add("20", 10, "c", "2", "/c", ownRoot+ownProc)
	down := errors.New("transport endpoint is not connected")
	a := &failingAttacher{errs: []error{down, down}}
	w := scanner(t, fake, a)
	w.scan((*sighting).has)
	w.queue.wait()
	now := time.Now()
	for try, wait := range []time.Duration{time.Second, 5 * time.Second} {
		due, ok := w.retries.next()
		if !ok || due.Before(now.Add(wait-100*time.Millisecond)) || due.After(time.Now().Add(wait)) {
			t.Fatalf("after %d failures the next try is due at %v, %v", try+1, due, ok)
		}
		w.tryAgain(due.Add(-time.Millisecond))
		w.queue.wait()
		if a.start != try+1 {
			t.Fatalf("%d tries before the time", a.start)
		}
		w.tryAgain(due)
		w.queue.wait()
	}
	s := w.Stats.Status()
	if _, ok := w.retries.next(); ok || a.start != 3 || s.Attached != 1 || s.Refused[Other] != 1 {
		t.Errorf("%d tries, then %+v", a.start, s)
	}
}

func TestRetriesEnd(t *testing.T) {
	changed := 0
	r := newRetries(func() { changed++ })
	now := time.Now()
	j := job{pid: 1, owner: 1}
	for tries := range retryWaits {
		if !r.add(j, now) {
			t.Fatalf("given up after %d failures", tries+1)
		}
		due := r.expired(now.Add(retryWaits[tries]))
		if len(due) != 1 || due[0].tries != tries+1 {
			t.Fatalf("due: %+v", due)
		}
		j = due[0]
	}
	if r.add(j, now) {
		t.Error("the attempts to attach a container never end")
	}
	if changed != len(retryWaits) {
		t.Errorf("told of %d changes", changed)
	}
}

// TestRetriesOfOneOwnerLeaveRoomForOthers: a container can have any number of mount
// namespaces.
func TestRetriesOfOneOwnerLeaveRoomForOthers(t *testing.T) {
	r := newRetries(func() {})
	taken := 0
	for pid := range 2 * maxRetries {
		if r.add(job{pid: pid, owner: 1}, time.Now()) {
			taken++
		}
	}
	if taken != maxRetriesOwner || !r.add(job{pid: 1, owner: 2}, time.Now()) {
		t.Errorf("%d of one owner wait", taken)
	}
}
