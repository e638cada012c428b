package fs

import (
	"container/list"
	"sync"
)

// maxOwned is how many slow requests of one owner may wait; beyond, they are refused
// (EAGAIN). That takes as many threads of one container.
const maxOwned = maxRecords / 8

// keepWorkers is how many workers' buffers are kept for the next slow requests.
const keepWorkers = 4

// shareOf is how many of limit workers one owner's requests may have, where there
// are several owners: what one makes us do must not take all workers nor, where it
// takes CPU time, all CPUs.
func shareOf(limit int) int { return max(limit/8, 1) }

// slow is the bookkeeping of slow requests. Owners take turns. It is safe for
// concurrent use, and nothing is waited for while its lock is held.
type slow struct {
	mu           sync.Mutex
	limit, share int // of workers: all together, and each owner's
	// running is the number of goroutines that do slow requests.
	running int
	// pending has each slow request that is not answered yet, by its unique.
	pending map[uint64]pending
	// owners are those that have a request here, and turns those of them that
	// have one in their queue. What a request there waits for, a worker, its
	// owner's share or its key, some worker has. When that one is done two
	// requests may be free to go, one by the share and one by the key: it takes
	// one, and hires for the other.
	owners map[uint64]*owner
	turns  list.List // of *owner
	// busy has the keys that are worked on.
	busy  map[NodeID]bool
	spare []*worker
}

// owner is whom requests belong to.
type owner struct {
	id      uint64
	running int
	queue   list.List     // of request
	turn    *list.Element // its place among the turns, nil while queue is empty
}

// pending is a slow request that is not answered yet.
type pending struct {
	queued *list.Element // its place in its owner's queue, nil while a worker has it
	owner  *owner
	record int32
}

func newSlow(limit, share int) slow {
	return slow{limit: limit, share: share, pending: make(map[uint64]pending), owners: make(map[uint64]*owner), busy: make(map[NodeID]bool)}
}

// begin notes that r is pending. It returns true where the calling goroutine is
// to work on it; else r waits in the queue.
func (l *slow) begin(r request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[r.owner]
	if o == nil {
		o = &owner{id: r.owner}
		l.owners[r.owner] = o
	}
	// What is found in the journal is queued first and worked on later.
	if l.running == l.limit || o.running >= l.share || l.busy[r.key()] || r.replayed {
		l.pending[r.unique] = pending{o.queue.PushBack(r), o, r.record}
		if o.turn == nil {
			o.turn = l.turns.PushBack(o)
		}
		return false
	}
	l.running++
	l.take(o, r)
	return true
}

// isFull tells whether the owner has so many requests here that one more would take
// the records of others.
func (l *slow) isFull(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[id]
	return o != nil && l.share < l.limit && o.running+o.queue.Len() >= maxOwned
}

// hire returns a request of the queue for a worker to be started, as long as there
// may be one more.
func (l *slow) hire() (request, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running == l.limit {
		return request{}, false
	}
	l.running++
	return l.nextLocked()
}

// take notes that a worker has r.
func (l *slow) take(o *owner, r request) {
	l.pending[r.unique] = pending{nil, o, r.record}
	o.running++
	if key := r.key(); key != 0 {
		l.busy[key] = true
	}
}

// next returns the next request of the queue, for the worker that has done the
// request done; without one that worker has ended.
func (l *slow) next(done request) (request, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, done.key())
	if o := l.owners[done.owner]; o != nil { // else the connection has ended
		o.running--
		l.forget(o)
	}
	return l.nextLocked()
}

// nextLocked takes the first request that may be worked on of the first owner that
// has one. That owner's next turn comes after those of all others.
func (l *slow) nextLocked() (request, bool) {
	for t := l.turns.Front(); t != nil; t = t.Next() {
		o := t.Value.(*owner)
		if o.running >= l.share {
			continue
		}
		for e := o.queue.Front(); e != nil; e = e.Next() {
			r := e.Value.(request)
			if l.busy[r.key()] {
				continue
			}
			l.turns.MoveToBack(t)
			l.take(o, r)
			l.unqueue(o, e)
			return r, true
		}
	}
	l.running--
	return request{}, false
}

// unqueue takes e out of o's queue.
func (l *slow) unqueue(o *owner, e *list.Element) {
	o.queue.Remove(e)
	if o.queue.Len() == 0 && o.turn != nil {
		l.turns.Remove(o.turn)
		o.turn = nil
	}
	l.forget(o)
}

// forget drops an owner that has no requests.
func (l *slow) forget(o *owner) {
	if o.running == 0 && o.queue.Len() == 0 {
		delete(l.owners, o.id)
	}
}

// isPending tells whether the request is not answered yet.
func (l *slow) isPending(unique uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[unique]
	return ok
}

// claim returns true once for each pending request, to the one that may answer
// it, and must strike its record out of the journal then.
func (l *slow) claim(unique uint64) (record int32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.pending[unique]
	if !ok {
		return 0, false
	}
	delete(l.pending, unique)
	if p.queued != nil {
		l.unqueue(p.owner, p.queued)
	}
	return p.record, true
}

// drop empties the queue of a connection that has ended: nobody waits for the
// answers.
func (l *slow) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turns.Init()
	clear(l.owners)
	clear(l.pending)
}

// worker returns buffers for one goroutine.
func (l *slow) worker() *worker {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := len(l.spare) - 1; last >= 0 {
		w := l.spare[last]
		l.spare[last] = nil
		l.spare = l.spare[:last]
		return w
	}
	return newWorker()
}

// recycle takes buffers back.
func (l *slow) recycle(w *worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spare) < keepWorkers {
		l.spare = append(l.spare, w)
	}
}
