package fs

import (
	"container/list"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// request is a READ or GETATTR of a file, taken out of the request buffer.
type request struct {
	unique uint64
	op     uint32
	node   *node
	caller Caller
	fh     uint64 // 0: none
	off    uint64 // READ only, in bytes; and so is size
	size   int
}

// keepWorkers is how many workers' buffers are kept for the next slow requests.
const keepWorkers = 4

// slow is the bookkeeping of slow requests. It is safe for concurrent use, and
// nothing is waited for while its lock is held.
type slow struct {
	mu    sync.Mutex
	limit int
	// running is the number of goroutines that do slow requests.
	running int
	// pending has each slow request that is not answered yet, by its
	// unique: nil while a worker has it, else its place in the queue.
	pending map[uint64]*list.Element
	queue   list.List // of request
	spare   []*worker
}

func newSlow(limit int) slow {
	return slow{limit: limit, pending: make(map[uint64]*list.Element)}
}

// begin notes that r is pending. It returns true where the calling goroutine is
// to work on it; else r waits in the queue.
func (l *slow) begin(r request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running == l.limit {
		l.pending[r.unique] = l.queue.PushBack(r)
		return false
	}
	l.running++
	l.pending[r.unique] = nil
	return true
}

// next returns the next request of the queue; without one the calling worker has
// ended.
func (l *slow) next() (request, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.queue.Front()
	if e == nil {
		l.running--
		return request{}, false
	}
	r := l.queue.Remove(e).(request)
	l.pending[r.unique] = nil
	return r, true
}

// isPending tells whether the request is not answered yet.
func (l *slow) isPending(unique uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[unique]
	return ok
}

// claim returns true once for each pending request, to the one that may answer
// it.
func (l *slow) claim(unique uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.pending[unique]
	if !ok {
		return false
	}
	delete(l.pending, unique)
	if e != nil {
		l.queue.Remove(e)
	}
	return true
}

// drop empties the queue of a connection that has ended: nobody waits for the
// answers.
func (l *slow) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.Init()
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

// answer answers r at once where that is cheap. Else it starts the next reader,
// works on r, and then on what has been queued meanwhile; it returns true then.
// Where there are enough workers it queues r.
func (s *Server) answer(w *worker, r request) (handedOn bool) {
	n, err := s.do(w, r, false)
	if !isCold(err) {
		s.reply(w, r.unique, n, err)
		return false
	}
	if !s.slow.begin(r) {
		return false
	}
	s.active.Add(1)
	go s.readLoop()
	for more := true; more; r, more = s.slow.next() {
		n, err := s.do(w, r, true)
		if isCold(err) {
			// It may wait and does not: asking again could go on for ever.
			err = syscall.EIO
		}
		if s.slow.claim(r.unique) {
			s.reply(w, r.unique, n, err)
		}
	}
	return true
}

// do makes the reply to r in w.out and returns its length in bytes.
func (s *Server) do(w *worker, r request, wait bool) (int, error) {
	if r.op == opRead {
		return s.read(w, r, wait)
	}
	return s.getattr(w, r, wait)
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
	if in == nil || !s.slow.isPending(in.Unique) {
		return
	}
	unique := in.Unique
	s.active.Add(1)
	time.AfterFunc(interruptGrace, func() {
		defer s.active.Done()
		if s.slow.claim(unique) {
			s.send(make([]byte, outHeaderSize), unique, 0, syscall.EINTR)
		}
	})
}
