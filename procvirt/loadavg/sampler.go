// SPDX-License-Identifier: Apache-2.0

package loadavg

import (
	"container/heap"
	"sync"
	"time"
)

// Bounds of what sampling costs. A look is a file or directory read, which takes
// some 8 us (6.18). One container costs at most 0.3 % of a CPU, all together a
// tenth of one, whatever they do: beyond that they are sampled less often.
const (
	// maxTracked bounds the containers. Beyond, the one read longest ago has to go.
	// When it is read again its CPU time stands for the samples it missed.
	maxTracked = 4096
	// idleAfter is when a container that nobody reads is no longer sampled.
	idleAfter = int64(15 * time.Minute)
	// looksPerPeriod is how much a container may cost to be sampled each period.
	looksPerPeriod = 2000
	// maxLooks ends a sample. What it did not get to is not counted.
	maxLooks = 16384
	// firstLooks ends the first sample, which a reader waits for.
	firstLooks = 2048
	// batch is how much is done at a stretch, with a rest behind each look.
	batch = 2000
	rest  = int64(75 * time.Microsecond)
	// phases are the moments of a period at which samples are made: enough that those
	// of a thousand containers are no burst, few enough to share wake-ups.
	phases = 100
	// maxHolds is how often in a row the counts of a group that used no CPU time
	// are taken for unchanged.
	maxHolds = 11
)

// Group is a container's control group with all below it.
type Group interface {
	// Used returns the CPU time used so far, in nanoseconds.
	Used() (uint64, error)
	// Count looks at the threads, given what it found the last time. It ends
	// after about limit looks, and returns how many it took.
	Count(last Counts, limit int) (c Counts, looks int, err error)
	// Save is told the state after each sample. It must not wait, and is not called
	// after Stop has returned.
	Save(State)
}

// Sampler samples the groups that are tracked, in one goroutine that ends when
// there are none. It is safe for concurrent use.
type Sampler struct {
	now func() int64

	mu      sync.Mutex // guards all below, never held during I/O
	queue   queue
	phase   int64 // of the next container
	running bool
	closed  bool
	done    sync.WaitGroup
	kick    chan struct{}
}

// Tracked is a group that is sampled. It is safe for concurrent use.
type Tracked struct {
	sampler *Sampler
	group   Group

	mu    sync.Mutex
	state State
	read  int64 // when last
	gone  bool

	// Of the sampler's goroutine.
	holds  int
	stride int64 // periods between samples
	// Guarded by Sampler.mu.
	due   int64
	index int // in the queue
}

// NewSampler makes a sampler. now is CLOCK_MONOTONIC in nanoseconds, but in tests:
// the kernel counts its periods by it too, and time in suspension is none.
func NewSampler(now func() int64) *Sampler {
	return &Sampler{now: now, kick: make(chan struct{}, 1)}
}

// Track samples g at once, and from then on until it is stopped, fails, or has
// not been read for 15 minutes. from is what is known of it so far; the time since
// then is made up for by the CPU time that g has used.
func (s *Sampler) Track(g Group, from State) (*Tracked, error) {
	used, err := g.Used()
	if err != nil {
		return nil, err
	}
	counts, looks, err := g.Count(from.Counts, firstLooks)
	if err != nil {
		return nil, err
	}
	now := s.now()
	from.skip((now-from.At)/period, now, used)
	from.Used, from.Counts = used, counts
	t := &Tracked{sampler: s, group: g, state: from, read: now, stride: 1}
	if looks >= firstLooks {
		t.holds = maxHolds // not all was looked at
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom()
	t.due = s.place(now)
	t.state.At = t.due - period
	g.Save(t.state)
	heap.Push(&s.queue, t)
	switch {
	case s.closed:
	case !s.running:
		s.running = true
		s.done.Go(s.run)
	case t.index == 0:
		s.wake()
	}
	return t, nil
}

// place returns when a container is due that is tracked from now on: within a
// period, and not with all others.
func (s *Sampler) place(now int64) int64 {
	s.phase = (s.phase + 37) % phases // neighbours in time are far apart
	at := now - now%period + s.phase*(period/phases)
	if at <= now {
		at += period
	}
	return at
}

// makeRoom stops the container that was read longest ago if there are too many. The
// caller holds s.mu.
func (s *Sampler) makeRoom() {
	if len(s.queue) < maxTracked {
		return
	}
	oldest, when := s.queue[0], s.now()
	for _, t := range s.queue {
		if read := t.lastRead(); read < when {
			oldest, when = t, read
		}
	}
	s.remove(oldest)
}

func (s *Sampler) remove(t *Tracked) {
	if t.index >= 0 {
		heap.Remove(&s.queue, t.index)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone = true
}

func (s *Sampler) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Close ends all sampling, and returns when it has ended. Closing nil does nothing.
func (s *Sampler) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.closed = true
	s.wake()
	s.mu.Unlock()
	s.done.Wait()
}

// run is the goroutine.
func (s *Sampler) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	earliest := int64(0)
	for {
		select {
		case <-timer.C:
		case <-s.kick:
		}
		now := s.now()
		if now >= earliest {
			earliest = now + s.work(now)*rest
		}
		next, ok := s.next()
		if !ok {
			return
		}
		timer.Reset(time.Duration(max(next, earliest) - s.now()))
	}
}

// next returns when the next container is due. If there is none the goroutine
// ends.
func (s *Sampler) next() (due int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.queue) == 0 {
		s.running = false
		return 0, false
	}
	return s.queue[0].due, true
}

// work samples the containers that are due, as many as a batch has room for, and
// returns how many looks it took.
func (s *Sampler) work(now int64) (looks int64) {
	for looks < batch {
		s.mu.Lock()
		if s.closed || len(s.queue) == 0 || s.queue[0].due > now {
			s.mu.Unlock()
			return looks
		}
		t := s.queue[0]
		s.mu.Unlock()

		n, ok := t.sample(now)
		looks += int64(n)

		s.mu.Lock()
		switch {
		case !ok:
			s.remove(t)
		case t.index >= 0: // not stopped meanwhile
			t.due = t.state.At + t.stride*period
			heap.Fix(&s.queue, t.index)
		}
		s.mu.Unlock()
	}
	return looks
}

// sample brings t up to date. It returns false if t is to be dropped.
func (t *Tracked) sample(now int64) (looks int, ok bool) {
	if now-t.lastRead() > idleAfter {
		return 0, false
	}
	used, err := t.group.Used()
	if err != nil {
		return 1, false
	}
	looks = 1
	state := t.State()
	// A thread does not come to run, to be blocked, to begin or to end without
	// running. One that was woken and had no CPU since, for whole periods, is
	// missed until it has; and threads may be moved in from other groups.
	if used == state.Used && t.holds < maxHolds {
		t.holds++
	} else {
		n := 0
		if state.Counts, n, err = t.group.Count(state.Counts, maxLooks); err != nil {
			return looks, false
		}
		looks += n
		t.holds = 0
	}
	// Periods that were left out because a sample is dear are as this one. Beyond
	// these the sampler was stopped.
	n := max((now-state.At)/period, 0)
	planned := min(n, t.stride)
	state.skip(n-planned, now, used)
	state.Averages.step(state.active(), planned)
	state.At += n * period
	state.Used = used
	t.stride = 1 + int64(looks/looksPerPeriod)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = state
	if !t.gone {
		t.group.Save(state)
	}
	return looks, true
}

// Read returns the state as of the last sample, and keeps the group sampled. It
// returns false if that has ended.
func (t *Tracked) Read() (State, bool) {
	now := t.sampler.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read = now
	return t.state, !t.gone
}

// Peek is Read without keeping the group sampled. For nil it returns false.
func (t *Tracked) Peek() (State, bool) {
	if t == nil {
		return State{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state, !t.gone
}

// State returns the state, whether it is kept up to date or not.
func (t *Tracked) State() State {
	s, _ := t.Peek()
	return s
}

func (t *Tracked) lastRead() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.read
}

// Stop ends the sampling of t. Stopping nil or twice does nothing.
func (t *Tracked) Stop() {
	if t == nil {
		return
	}
	t.sampler.mu.Lock()
	defer t.sampler.mu.Unlock()
	t.sampler.remove(t)
}

// queue is a heap of the containers, by when they are due.
type queue []*Tracked

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is heap.Interface's.
func (q *queue) Push(x any) {
	t := x.(*Tracked)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop is heap.Interface's.
func (q *queue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	t.index = -1
	return t
}
