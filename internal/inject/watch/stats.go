// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"maps"
	"sync"
	"time"

	"vprocfs/internal/attach"
)

// Status is what a watcher does and has done. Its counters begin with the watcher: another
// takes over after a crash and an upgrade.
type Status struct {
	// Source is what tells of containers that start.
	Source string `json:"source"`
	// Attached is how many containers were attached wholly. Late is how many of those
	// ran their program by then, though they had just started: its first reads saw
	// the host.
	Attached uint64 `json:"attached"`
	Late     uint64 `json:"late"`
	// Refused is how many containers were not attached, or not wholly, when they were
	// tried first, by reason. They are tried again, and may be among Attached, too.
	Refused map[Reason]uint64 `json:"refused,omitempty"`
	// Queue is how many containers wait, and Running how many are being attached.
	Queue   int `json:"queue"`
	Running int `json:"running"`
	// LastError is the last error of a container, and LastErrorAt its time.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// Reason is why a container was not attached, or not wholly.
type Reason string

// The reasons. A container that ends meanwhile has none.
const (
	Hung       Reason = "hung"        // a file system in its tree, or the daemon, did not answer
	QueueFull  Reason = "queue-full"  // too many waited
	NotPivoted Reason = "not-pivoted" // it still had the root file system of the host
	Files      Reason = "files"       // some files could not be attached
	Other      Reason = "other"
)

// searching is the Source of a watcher that has none.
const searching = "search of /proc"

// Stats are the numbers of a watcher. The zero value is ready to use. They are safe for
// concurrent use.
type Stats struct {
	mu      sync.Mutex
	s       Status
	q       *queue        // nil until the watcher runs
	changed chan struct{} // nil until somebody waits
}

// Changed returns a channel that gets a value when the numbers have changed.
func (s *Stats) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{}, 1)
		s.changed <- struct{}{}
	}
	return s.changed
}

// change tells who waits. mu is held.
func (s *Stats) change() {
	if s.changed == nil {
		return
	}
	select {
	case s.changed <- struct{}{}:
	default: // there is a value
	}
}

// Status returns what the numbers are now.
func (s *Stats) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.s
	now.Refused = maps.Clone(now.Refused)
	if s.q != nil {
		now.Queue, now.Running = s.q.load()
	}
	return now
}

func (s *Stats) setQueue(q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.q = q
}

func (s *Stats) setSource(src source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Source = searching
	if src != nil {
		s.s.Source = src.name()
	}
	s.change()
}

// attached counts a container.
func (s *Stats) attached(late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s.Attached++
	if late {
		s.s.Late++
	}
	s.change()
}

// Refuse counts a container that was not attached, or not wholly.
func (s *Stats) Refuse(why Reason, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.s.Refused == nil {
		s.s.Refused = make(map[Reason]uint64)
	}
	s.s.Refused[why]++
	s.s.LastError, s.s.LastErrorAt = text, time.Now()
	s.change()
}

// reasonOf returns why a container was not attached as a whole.
func reasonOf(err error) Reason {
	switch {
	case attach.IsHung(err):
		return Hung
	case errors.Is(err, attach.ErrNotPivoted):
		return NotPivoted
	}
	return Other
}
