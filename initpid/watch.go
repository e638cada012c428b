// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher reports when the init of an entry dies. It waits for the pidfds in
// epoll_wait(2), so it has no wake-ups while no init dies.
type watcher struct {
	epfd, stopfd int
	died         func(*entry) // called once for each entry whose init dies
	done         chan struct{}

	mu      sync.Mutex // guards all below
	entries map[uint64]*entry
	last    uint64
}

// stopID is the watcher's number for its stopfd.
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

// control adds fd to the set. It is one-shot: a dead init is reported once, not until
// it is removed.
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

// remove ends the watch of e. To close the pidfd is not enough: a process that is
// being forked may have a copy of it for a moment, and epoll reports a file until its
// last copy is closed.
func (w *watcher) remove(e *entry) {
	w.take(e.watch)
	// The error can be ignored: the pidfd is open and was added, or add failed.
	_ = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_DEL, e.pidfd, nil)
}

// take returns the entry with this number and forgets it. It returns nil if the entry
// is not watched any more.
//
// An event has a number, not a pidfd: an event that was fetched may be handled after
// its entry is removed, when the pidfd is another's.
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
			// Only a bug can be the reason: the descriptor is our own.
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

// stop ends the goroutine. Entries may be removed until closeFds.
func (w *watcher) stop() {
	var one = [8]byte{1} // any count but 0, so the byte order does not matter
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
