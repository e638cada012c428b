package fs

import (
	"container/list"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// request is one that may be slow, taken out of the request buffer.
type request struct {
	unique uint64
	op     uint32
	id     NodeID
	node   *node // nil where id is an entry of the host's
	caller Caller
	fh     uint64 // 0: none
	off    uint64 // READ and READDIR only, in bytes; and so is size
	size   int
	mask   uint32 // ACCESS only
	name   string // LOOKUP only
	// owner is whom it belongs to, while it is slow.
	owner uint64
	// record is where the journal has it, while it is slow.
	record int32
	// replayed says that a process that died may have answered it already.
	replayed bool
	text     string // WRITE only: what was written, or its beginning
}

// key names what only one request at a time may work on, 0 for nothing. A file of
// the host's that does not answer takes one worker, not all.
func (r *request) key() NodeID {
	if r.op == opRead && r.node == nil {
		return r.id
	}
	return 0
}

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

// isCold says that err asks for a second call that may wait.
func isCold(err error) bool {
	return err == ErrCold || err != nil && errors.Is(err, ErrCold)
}

// answer answers r, which w.in holds, at once where that is cheap. Else it starts
// the next reader, works on r, and then on what has been queued meanwhile; it
// returns true then. Where there are enough workers it queues r.
func (s *Server) answer(w *worker, r request) (handedOn bool) {
	n, err := s.do(w, r, false)
	if !isCold(err) {
		s.reply(w, r.unique, n, err)
		return false
	}
	r.replayed = w.replayed
	if s.owner != nil {
		r.owner = s.owner(r.caller)
	}
	l := s.queueFor(&r)
	noted := false
	if !w.alone {
		if !w.recorded && l.isFull(r.owner) {
			s.reply(w, r.unique, 0, syscall.EAGAIN)
			return false
		}
		r.record, noted = s.note(w)
	}
	if !noted {
		// Where there is no room in the journal all others wait: a request that
		// waits in the memory of this process only would be lost with it.
		n, err := s.doSlowly(w, r)
		s.reply(w, r.unique, n, err)
		return false
	}
	if !l.begin(r) {
		return false
	}
	s.journal.clearSlot()
	s.active.Add(1)
	go s.readLoop()
	s.work(w, l, r)
	return true
}

// queueFor is where r belongs.
func (s *Server) queueFor(r *request) *slow {
	if r.key() != 0 {
		return &s.hostReads
	}
	return &s.slow
}

// note puts the request in w.in into the journal's records, if it is not there.
func (s *Server) note(w *worker) (record int32, ok bool) {
	if w.recorded {
		return w.record, true
	}
	return s.journal.note(w.in)
}

// work answers r, and then what has been queued in l meanwhile.
func (s *Server) work(w *worker, l *slow, r request) {
	for more := true; more; {
		w.replayed = r.replayed
		n, err := s.doSlowly(w, r)
		if record, ok := l.claim(r.unique); ok {
			s.reply(w, r.unique, n, err)
			s.journal.strike(record)
		} else if r.op == opOpen && err == nil {
			// Nobody will release what nobody has been told of.
			s.handles.release(placed[fuse.OpenOut](w.out[:cap(w.out)]).Fh)
		} else if r.op == opWrite && err == nil {
			// The writer was told that nothing came of it, and may have
			// closed the file since.
			s.triggers.Release(r.fh)
		}
		if r, more = l.next(r); more {
			s.hire(l)
		}
	}
	w.replayed = false
}

// hire starts a worker if there is something for it to do that waits for nothing. It
// tells whether there was.
func (s *Server) hire(l *slow) bool {
	r, ok := l.hire()
	if ok {
		s.active.Go(func() {
			w := s.slow.worker()
			defer s.slow.recycle(w)
			s.work(w, l, r)
		})
	}
	return ok
}

// doSlowly is do with waiting.
func (s *Server) doSlowly(w *worker, r request) (int, error) {
	n, err := s.do(w, r, true)
	if isCold(err) {
		// It may wait and does not: asking again could go on for ever.
		err = syscall.EIO
	}
	return n, err
}

// do makes the reply to r in w.out and returns its length in bytes.
func (s *Server) do(w *worker, r request, wait bool) (int, error) {
	switch {
	case r.op == opRead:
		return s.read(w, r, wait)
	case r.node != nil && r.op == opGetattr:
		return s.getattr(w, r, wait)
	case r.op == opWrite:
		return s.write(w, r, wait)
	default:
		return s.host(w, r, wait)
	}
}

// drop empties the queues of a connection that has ended.
func (s *Server) drop() {
	s.slow.drop()
	s.hostReads.drop()
}

// interruptGrace is how long an interrupted request may still finish. A caller
// whose signal handler restarts system calls (SA_RESTART) expects a read of /proc
// not to fail with EINTR, and nearly all slow requests take a few milliseconds.
const interruptGrace = 100 * time.Millisecond

// interrupt lets go of a slow request whose caller got a signal: it is answered
// with EINTR after a grace, so that the caller returns to user mode, or dies, and
// the result of the work is dropped. A request that is not pending has been
// answered already. There is no reply to an INTERRUPT itself.
func (s *Server) interrupt(b []byte) {
	in := decode[fuse.InterruptIn](b)
	if in == nil || !s.isPending(in.Unique) {
		return
	}
	unique := in.Unique
	s.active.Add(1)
	time.AfterFunc(interruptGrace, func() {
		defer s.active.Done()
		record, ok := s.slow.claim(unique)
		if !ok {
			record, ok = s.hostReads.claim(unique)
		}
		if ok {
			s.send(make([]byte, outHeaderSize), unique, 0, syscall.EINTR)
			s.journal.strike(record)
		}
	})
}
