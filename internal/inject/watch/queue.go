// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"sync"
	"time"
)

// Bounds of the work. A hostile container can have thousands of mount namespaces, and a
// path walk in each of them may hang.
const (
	maxRunning      = 16 // jobs that run at a time
	maxRunningOwner = 4  // of one owner
	maxWaiting      = 4096
	maxWaitingOwner = 512
	// penalty is how long the jobs of an owner run one at a time, and alone in a
	// helper, after one of them has hung.
	penalty = time.Minute
)

// job is a container to be attached.
type job struct {
	pid   int
	ns    uint64 // inode of its mount namespace
	owner uint64
	seen  time.Time // when the event or the scan came
	// started says that an event has told of the container, so that it has just started.
	started bool
	// alone is true if the owner has had a job that hung.
	alone bool
	tries int // how often it has failed
}

// lane is the work of one owner.
type lane struct {
	owner   uint64
	waiting []job
	running int
	spent   time.Duration // of the jobs since the lane was made
	hung    time.Time     // when the last job hung
}

// queue runs jobs, several at a time. An owner whose jobs hang delays no other: the
// next job is always of the owner that has the fewest jobs running and, among these,
// has used the least time. It is safe for concurrent use.
type queue struct {
	// work begins a job, and does not wait. It has done called on another goroutine
	// when the job has ended.
	work func(j job, done func(hung bool))
	now  func() time.Time

	mu      sync.Mutex
	lanes   map[uint64]*lane
	waiting int
	running int
	done    sync.Cond // running is 0
}

func newQueue(work func(j job, done func(hung bool))) *queue {
	q := &queue{work: work, now: time.Now, lanes: make(map[uint64]*lane)}
	q.done.L = &q.mu
	return q
}

// push adds a job, which may start at once. It returns false if there are too many.
func (q *queue) push(j job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[j.owner]
	if l == nil {
		l = &lane{owner: j.owner}
	}
	if q.waiting >= maxWaiting || len(l.waiting) >= maxWaitingOwner {
		return false
	}
	q.lanes[j.owner] = l
	l.waiting = append(l.waiting, j)
	q.waiting++
	q.start()
	return true
}

// start starts as many jobs as may run. mu is held.
func (q *queue) start() {
	for q.running < maxRunning {
		l := q.next()
		if l == nil {
			return
		}
		j := l.waiting[0]
		l.waiting = l.waiting[1:]
		j.alone = q.penalised(l)
		q.waiting--
		q.running++
		l.running++
		begin := q.now()
		q.work(j, func(hung bool) { q.end(l, begin, hung) })
	}
}

// penalised reports whether a job of the lane has hung lately.
func (q *queue) penalised(l *lane) bool { return !l.hung.IsZero() && q.now().Sub(l.hung) < penalty }

// next returns the lane whose turn it is, or nil if no lane may start a job.
func (q *queue) next() (best *lane) {
	for _, l := range q.lanes {
		most := maxRunningOwner
		if q.penalised(l) {
			most = 1
		}
		if len(l.waiting) == 0 || l.running >= most {
			continue
		}
		if best == nil || l.running < best.running || l.running == best.running && l.spent < best.spent {
			best = l
		}
	}
	return best
}

// end notes that a job has ended.
func (q *queue) end(l *lane, begin time.Time, hung bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	end := q.now()
	if hung {
		l.hung = end
	}
	l.spent += end.Sub(begin)
	l.running--
	q.running--
	q.forget()
	q.start()
	if q.running == 0 {
		q.done.Broadcast()
	}
}

// forget drops the lanes that have no work and no penalty.
func (q *queue) forget() {
	for owner, l := range q.lanes {
		if len(l.waiting) == 0 && l.running == 0 && !q.penalised(l) {
			delete(q.lanes, owner)
		}
	}
}

// load returns how many jobs wait and run.
func (q *queue) load() (waiting, running int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting, q.running
}

// wait waits until no job runs or waits.
func (q *queue) wait() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.running > 0 {
		q.done.Wait()
	}
}
