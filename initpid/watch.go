package initpid

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher tells when the init of an entry dies. It sleeps in epoll_wait(2) on
// the pidfds: no wake-up while nobody dies.
type watcher struct {
	epfd, stopfd int
	died         func(*entry) // called for each entry added whose init dies, once
	done         chan struct{}

	mu      sync.Mutex // guards all below
	entries map[uint64]*entry
	last    uint64
}

// stopID is the number under which the watcher knows its stopfd.
const stopID = 0

func newWatcher(died func(*entry)) (*watcher, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	stopfd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(epfd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	w := &watcher{epfd: epfd, stopfd: stopfd, died: died, done: make(chan struct{}), entries: map[uint64]*entry{}}
	if err := w.control(stopfd, stopID); err != nil {
		w.closeFds()
		return nil, err
	}
	go w.run()
	return w, nil
}

// control adds fd to the set. One shot: a dead init is told once, not again
// and again until it is removed.
func (w *watcher) control(fd int, id uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(id), Pad: int32(id >> 32)}
	if err := unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl add: %w", err)
	}
	return nil
}

// add watches e.pidfd. died may be called before add returns.
func (w *watcher) add(e *entry) error {
	w.mu.Lock()
	w.last++
	e.watch = w.last
	w.entries[e.watch] = e
	w.mu.Unlock()
	if err := w.control(e.pidfd, e.watch); err != nil {
		w.take(e.watch)
		return err
	}
	return nil
}

// remove ends the watch of e. Closing the pidfd would not do: a process that is
// just being forked may hold a copy of it for a moment, and epoll keeps
// reporting a file until its last copy is closed.
func (w *watcher) remove(e *entry) {
	w.take(e.watch)
	// The error is of no use: the pidfd is open and was added, or add failed.
	_ = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_DEL, e.pidfd, nil)
}

// take returns the entry with this number, if it is still watched, once.
//
// Events carry a number and not a pointer or a pidfd, since an event that was
// fetched already may outlive its entry, and the pidfd may be another's then.
func (w *watcher) take(id uint64) *entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[id]
	delete(w.entries, id)
	return e
}

func (w *watcher) run() {
	defer close(w.done)
	var events [32]unix.EpollEvent
	for {
		n, err := unix.EpollWait(w.epfd, events[:], -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			// Only a bug can bring us here: the descriptor is our own.
			panic(os.NewSyscallError("epoll_wait", err))
		}
		for i := range events[:n] {
			id := uint64(uint32(events[i].Fd)) | uint64(uint32(events[i].Pad))<<32
			if id == stopID {
				return
			}
			if e := w.take(id); e != nil {
				w.died(e)
			}
		}
	}
}

// stop ends the goroutine. Entries may still be removed afterwards, until closeFds.
func (w *watcher) stop() {
	var one = [8]byte{1} // any count but 0 will do, so byte order does not matter
	for {
		if _, err := unix.Write(w.stopfd, one[:]); err != unix.EINTR {
			break
		}
	}
	<-w.done
}

func (w *watcher) closeFds() {
	unix.Close(w.stopfd)
	unix.Close(w.epfd)
}
