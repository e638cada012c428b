// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"container/list"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"vprocfs/fs/journal"
)

const (
	// maxOwned is how many turns of one owner may be blocked at the same time;
	// further ones are refused (EAGAIN). That takes as many threads of one container.
	maxOwned = journal.MaxRecords / 8
	// keepTurns is how many turns are kept for the next requests, and how many
	// blocked ones may keep a large reply buffer.
	keepTurns = 4
)

// shareOf returns how many of limit turns at work one owner may have: what one
// container makes the daemon do must not take all threads nor, if it takes CPU time,
// all CPUs. With 8 instead of 2, on two CPUs, writes of 4 KiB to pressure made another's
// open, read, read, close take 1.5 instead of 0.3 ms in the median (6.18).
func shareOf(limit int) int { return max(min(limit/8, max(2, runtime.NumCPU()/2)), 1) }

// waits has the turns that have blocked and are not answered. It is safe for
// concurrent use, and nothing is waited for while its lock is held.
type waits struct {
	mu sync.Mutex
	// pending has the turns by the unique of their request. Whoever takes one out
	// answers it.
	pending map[uint64]*Turn
	// work is the queue of most turns. hostReads is that of turns that read the
	// host's files: one whose files do not answer takes no place from the others.
	work, hostReads queue
	// aside is that of turns of owners with many threads in a rush, one at a time.
	aside queue
	// delays has the turns of owners that read more than they may.
	delays delays
	ended  bool // the connection
	spare  []*Turn
	bulky  atomic.Int32 // turns that have a large reply buffer
}

// queue admits turns to work. Owners take turns; within an owner it is first come,
// first served.
type queue struct {
	limit, share int // of turns at work: all together, and of each owner
	running      int
	// owners are those that have a turn here, and order those of them that have one
	// in their queue.
	owners map[uint64]*owner
	order  list.List // of *owner
	// busy has the keys that are worked on.
	busy map[NodeID]bool
}

// owner is whom turns belong to.
type owner struct {
	id      uint64
	running int
	queue   list.List     // of *Turn
	place   *list.Element // in the order, nil while queue is empty
}

func newWaits(workers int) *waits {
	return &waits{
		pending:   make(map[uint64]*Turn),
		work:      newQueue(workers, shareOf(workers)),
		hostReads: newQueue(hostReaders, hostReaders/4),
		aside:     newQueue(1, 1),
		delays:    delays{of: make(map[uint64]int)},
	}
}

func newQueue(limit, share int) queue {
	return queue{limit: limit, share: share, owners: make(map[uint64]*owner), busy: make(map[NodeID]bool)}
}

// queueFor returns the queue that r waits in if it blocks.
func (w *waits) queueFor(r *request) *queue {
	if r.key() != 0 {
		return &w.hostReads
	}
	return &w.work
}

// key serialises requests: those with the same non-zero key are worked on one at a
// time. A file of the host's that does not answer takes one place, not all.
func (r *request) key() NodeID {
	if r.op == opRead && r.node == nil {
		return r.id
	}
	return 0
}

// expect makes t pending.
func (w *waits) expect(t *Turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[t.unique] = t
	if cap(t.out) > smallReply {
		t.bulky = true
		w.bulky.Add(1)
	}
}

// isBulky reports whether so many blocked turns have large reply buffers that the
// next one must not have one too.
func (w *waits) isBulky() bool { return w.bulky.Load() >= keepTurns }

// isFull reports whether the owner has so many turns in q that one more would take
// the records of others.
func (w *waits) isFull(q *queue, owner uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := q.owners[owner]
	return o != nil && o.isFull()
}

func (o *owner) isFull() bool { return o.running+o.queue.Len() >= maxOwned }

// enter returns when q admits t, or with the error that t is to be answered with.
func (w *waits) enter(q *queue, t *Turn) error {
	if admitted, err := w.ask(q, t); admitted || err != nil {
		return err
	}
	return <-t.wake
}

// ask admits t, or queues it.
func (w *waits) ask(q *queue, t *Turn) (admitted bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false, syscall.ENODEV
	}
	if w.pending[t.unique] != t {
		return false, syscall.EINTR
	}
	o := q.owners[t.owner]
	if o == nil {
		o = &owner{id: t.owner}
		q.owners[t.owner] = o
	}
	switch {
	case o.isFull():
		return false, errQueueFull
	case q.running < q.limit && o.running < q.share && !q.busy[t.key()]:
		q.take(o, t)
		return true, nil
	}
	t.queue, t.holder = q, o
	t.queued = o.queue.PushBack(t)
	if o.place == nil {
		o.place = q.order.PushBack(o)
	}
	return false, nil
}

// take notes that t is at work.
func (q *queue) take(o *owner, t *Turn) {
	q.running++
	o.running++
	if key := t.key(); key != 0 {
		q.busy[key] = true
	}
	t.queue, t.holder = q, o
}

// admit wakes the turns that may go to work. The first is the first one of the first
// owner that has one; that owner's next comes after those of all others.
func (q *queue) admit() {
	for q.running < q.limit {
		t := q.next()
		if t == nil {
			return
		}
		q.order.MoveToBack(t.holder.place)
		q.take(t.holder, t)
		q.unqueue(t)
		t.wake <- nil
	}
}

func (q *queue) next() *Turn {
	for p := q.order.Front(); p != nil; p = p.Next() {
		o := p.Value.(*owner)
		if o.running >= q.share {
			continue
		}
		for e := o.queue.Front(); e != nil; e = e.Next() {
			if t := e.Value.(*Turn); !q.busy[t.key()] {
				return t
			}
		}
	}
	return nil
}

// unqueue takes t out of its owner's queue.
func (q *queue) unqueue(t *Turn) {
	o := t.holder
	o.queue.Remove(t.queued)
	t.queued = nil
	if o.queue.Len() == 0 {
		q.order.Remove(o.place)
		o.place = nil
	}
	q.forget(o)
}

// forget drops an owner that has no turns.
func (q *queue) forget(o *owner) {
	if o.running == 0 && o.queue.Len() == 0 {
		delete(q.owners, o.id)
	}
}

// dismiss ends the wait of a turn in a queue, or its delay.
func (w *waits) dismiss(t *Turn, err error) {
	switch {
	case t.queued != nil:
		q := t.queue
		q.unqueue(t)
		t.queue, t.holder = nil, nil
	case !w.endDelay(t):
		return
	}
	t.wake <- err
}

// leave ends t, which has blocked.
func (w *waits) leave(t *Turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.bulky {
		t.bulky = false
		w.bulky.Add(-1)
	}
	t.giveUp()
}

// yield is leave for a turn that is not done.
func (w *waits) yield(t *Turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.giveUp()
}

// giveUp takes t off the work of its queue, and admits those that have waited for it.
func (t *Turn) giveUp() {
	q, o := t.queue, t.holder
	if q == nil {
		return
	}
	t.queue, t.holder = nil, nil
	delete(q.busy, t.key())
	q.running--
	o.running--
	q.forget(o)
	q.admit()
}

// isPending reports whether the request has blocked and is not answered.
func (w *waits) isPending(unique uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pending[unique] != nil
}

// claim returns a pending turn to the one that may answer it, and nil to all others.
func (w *waits) claim(unique uint64) *Turn {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.pending[unique]
	delete(w.pending, unique)
	return t
}

// interrupt is claim for somebody else than the goroutine of the turn. It ends the wait
// of the turn. If that is a GETATTR, sized is the file that it is about.
func (w *waits) interrupt(unique uint64) (entry journal.Request, sized *node, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.pending[unique]
	if t == nil {
		return entry, nil, false
	}
	delete(w.pending, unique)
	w.dismiss(t, syscall.EINTR)
	if t.op == opGetattr {
		sized = t.node
	}
	return t.entry, sized, true
}

// end ends the waits of a connection that has ended: nobody waits for the answers.
func (w *waits) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for _, t := range w.pending {
		w.dismiss(t, syscall.ENODEV)
	}
	clear(w.pending)
}

// turn returns a Turn for one goroutine.
func (w *waits) turn(s *Server) *Turn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := len(w.spare) - 1; last >= 0 {
		t := w.spare[last]
		w.spare[last] = nil
		w.spare = w.spare[:last]
		return t
	}
	return newTurn(s)
}

// recycle takes a Turn back.
func (w *waits) recycle(t *Turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.spare) < keepTurns {
		w.spare = append(w.spare, t)
	}
}
