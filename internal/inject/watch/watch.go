// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/attach"
)

// Config is what Run needs.
type Config struct {
	// Dir is the mount point of the view, an absolute path without symbolic links.
	Dir   string
	Rules Rules
	// Log gets lines that containers cause. It must bound them (loglimit).
	Log *slog.Logger
	// Attach shows the view in a container. It is safe for concurrent use.
	Attach Attacher
	// Owner returns an id of the outermost container of a process. The containers of
	// one owner share its turns.
	Owner func(pid int) (uint64, error)
	// Stats gets the numbers.
	Stats *Stats
}

// Attacher attaches files in the mount namespace ns of process pid. An error that is
// attach.IsHung says that the container, or the daemon, does not answer.
type Attacher interface {
	// Start is the fast way, which others share. It does not wait: it has done called
	// on another goroutine.
	Start(pid int, ns uint64, done func([]attach.Result, error))
	// AttachAlone delays no other call, whatever the container does.
	AttachAlone(ctx context.Context, pid int, ns uint64) ([]attach.Result, error)
}

const (
	// checkEvery is how often the source is checked for CPUs that came online.
	checkEvery = time.Minute
	// scanGap is the least time between two scans.
	scanGap = 5 * time.Second
	// eventRate is how many events a second are looked at, and eventBurst how many
	// at once. A container can make more. What is left is found by a scan.
	eventRate  = 2000
	eventBurst = 4000
)

// watcher is the state of Run. But for the queue it belongs to one goroutine.
type watcher struct {
	Config
	proc       *proc
	poller     *poller
	source     source // nil if only scans find containers
	isSource   map[int]bool
	candidates *candidates
	queue      *queue
	retries    *retries

	wake     int  // eventfd: a scan or ctx has ended, or there is another retry
	rescan   bool // a scan is needed
	searched bool // a scan has begun
	scanned  time.Time
	scanning chan []int // gets the result of the scan that runs; nil if none runs
	scans    sync.WaitGroup
	checked  time.Time
	events   float64 // how many may be looked at now
	counted  time.Time
}

// Run watches until ctx ends. It returns an error if it cannot go on.
func Run(ctx context.Context, cfg Config) error {
	w := &watcher{Config: cfg}
	var err error
	if w.proc, err = newProc("/proc"); err != nil {
		return err
	}
	if w.poller, err = newPoller(); err != nil {
		return err
	}
	defer w.poller.close()
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	defer unix.Close(w.wake)
	if err := w.poller.add(w.wake, unix.EPOLLIN); err != nil {
		return err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		w.wakeUp()
		close(woken)
	})
	defer func() {
		if !stop() {
			<-woken // before wake is closed
		}
	}()
	w.candidates = newCandidates(w.proc.root, w.poller)
	w.retries = newRetries(w.wakeUp)
	w.queue = newQueue(func(j job, done func(hung bool)) { w.attach(ctx, j, done) })
	w.Stats.setQueue(w.queue)
	defer w.queue.wait()
	if err := w.open(); err != nil {
		return err
	}
	defer func() {
		w.closeSource()
		w.scans.Wait()
	}()
	// Now the source misses nothing; the scan finds what runs already.
	w.rescan = true
	return w.loop(ctx)
}

// wakeUp ends the current or the next wait of the loop.
func (w *watcher) wakeUp() {
	_, _ = unix.Write(w.wake, []byte{1, 1, 1, 1, 1, 1, 1, 1}) // EAGAIN: it has not woken up yet
}

// open opens the best source.
func (w *watcher) open() error {
	w.isSource = make(map[int]bool)
	w.checked = time.Now()
	w.source = openSource(openers(), w.Log)
	w.Stats.setSource(w.source)
	if w.source == nil {
		return nil
	}
	for _, fd := range w.source.fds() {
		if err := w.poller.add(fd, unix.EPOLLIN); err != nil {
			return err
		}
		w.isSource[fd] = true
	}
	return nil
}

func (w *watcher) closeSource() {
	if w.source != nil {
		w.source.close() // the epoll instance forgets its descriptors
		w.source = nil
	}
}

// reopen replaces the source. Until it is open events are missed.
func (w *watcher) reopen() error {
	w.closeSource()
	w.rescan = true
	return w.open()
}

// loop handles events until ctx ends.
func (w *watcher) loop(ctx context.Context) error {
	var ready [64]unix.EpollEvent
	for ctx.Err() == nil {
		now := time.Now()
		for _, c := range w.candidates.resume(now) {
			w.consider(event{pid: c.pid, follow: true}, now)
		}
		w.lookAgain(now)
		w.tryAgain(now)
		if err := w.maintain(now); err != nil {
			return err
		}
		n, err := w.poller.wait(ready[:], w.next(now))
		if err != nil {
			return err
		}
		now = time.Now()
		fromSource := false
		for _, e := range ready[:n] {
			fd := int(e.Fd)
			if fd == w.wake {
				var b [8]byte
				_, _ = unix.Read(fd, b[:]) // it is readable
			} else if w.isSource[fd] {
				fromSource = true
			} else if c := w.candidates.byFD[fd]; c != nil && w.candidates.changed(c, now) {
				w.consider(event{pid: c.pid, follow: true}, now)
			}
		}
		if fromSource {
			if err := w.readSource(now); err != nil {
				return err
			}
		}
	}
	return nil
}

// next returns when the loop has something to do, whatever happens.
func (w *watcher) next(now time.Time) time.Time {
	next := now.Add(checkEvery)
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if due, ok := w.candidates.next(); ok {
		earlier(due)
	}
	if due, ok := w.retries.next(); ok {
		earlier(due)
	}
	if w.rescan {
		earlier(w.scanned.Add(scanGap))
	}
	if w.source == nil {
		earlier(w.scanned.Add(scanEvery))
	}
	return next
}

// maintain does what is due now and then.
func (w *watcher) maintain(now time.Time) error {
	if w.source != nil && now.Sub(w.checked) >= checkEvery {
		w.checked = now
		if w.source.stale() {
			w.Log.Info("other CPUs are online: watching again")
			if err := w.reopen(); err != nil {
				return err
			}
		}
	}
	if w.scanning != nil {
		select {
		case unready := <-w.scanning:
			w.scanning = nil
			for _, pid := range unready {
				w.candidates.add(pid, true, now)
			}
		default:
			return nil
		}
	}
	if w.rescan && now.Sub(w.scanned) >= scanGap || w.source == nil && now.Sub(w.scanned) >= scanEvery {
		// A watcher before this one may have been killed in the middle of a container:
		// the first scan attaches those that have the view, too.
		complete := (*sighting).has
		if !w.searched {
			complete = func(*sighting, uint64) bool { return false }
		}
		w.rescan, w.scanned, w.searched = false, now, true
		w.scanning = make(chan []int, 1)
		w.scans.Go(func() {
			w.scanning <- w.scan(complete)
			w.wakeUp()
		})
	}
	return nil
}

// readSource handles the events of the source.
func (w *watcher) readSource(now time.Time) error {
	w.events = min(eventBurst, w.events+eventRate*now.Sub(w.counted).Seconds())
	w.counted = now
	seen := make(map[event]bool)
	lost, err := w.source.read(func(e event) {
		if seen[e] {
			return
		}
		seen[e] = true
		if w.events < 1 {
			w.rescan = true
			return
		}
		w.events--
		w.consider(e, now)
	})
	if lost {
		w.rescan = true
	}
	if err != nil {
		w.Log.Warn("the event source has failed: opening it again", "source", w.source.name(), "err", err)
		return w.reopen()
	}
	return nil
}

// consider looks at the process of an event.
func (w *watcher) consider(e event, now time.Time) {
	if e.later {
		if !w.candidates.add(e.pid, e.follow, now) {
			w.rescan = true
		}
		return
	}
	s, err := w.proc.look(&w.Rules, e.pid)
	switch {
	case errors.Is(err, errOrphaned), err == nil && s.verdict == notYet:
		if !w.candidates.add(e.pid, e.follow, now) {
			w.rescan = true
		}
		return
	case err == nil && s.verdict == ready:
		w.attachLater(job{pid: e.pid, ns: s.ns, seen: now, started: true})
	case err != nil && !errors.Is(err, errEnded):
		w.Log.Debug("a process is left alone", "pid", e.pid, "err", err)
	}
	w.candidates.drop(e.pid)
}

// lookAgain looks at the candidates that are due.
func (w *watcher) lookAgain(now time.Time) {
	for _, c := range w.candidates.expired(now) {
		s, err := w.proc.look(&w.Rules, c.pid)
		switch {
		case err == nil && s.verdict == ready:
			w.attachLater(job{pid: c.pid, ns: s.ns, seen: now, started: true})
			w.candidates.drop(c.pid)
		case err != nil && !errors.Is(err, errOrphaned), err == nil && s.verdict == never, !c.retry(now):
			w.candidates.drop(c.pid)
		}
	}
}
