// SPDX-License-Identifier: Apache-2.0

package psi

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// start starts to wait for events, at the first trigger: waiting takes a thread, and
// most hosts never have a trigger. The caller holds mu.
func (t *Table) start() error {
	if t.epoll >= 0 {
		return nil
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, stop, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		unix.Close(epoll)
		if stop >= 0 {
			unix.Close(stop)
		}
		return fmt.Errorf("eventfd: %w", err)
	}
	t.epoll, t.stop, t.stopped = epoll, stop, make(chan struct{})
	go t.wait(epoll)
	return nil
}

// wait waits for events until Close.
func (t *Table) wait(epoll int) {
	defer close(t.stopped)
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(epoll, events[:], -1)
		if err != nil && err != unix.EINTR {
			return // EBADF, EFAULT or EINVAL: only a bug
		}
		for i := range max(n, 0) {
			handle := token(&events[i])
			if handle == 0 {
				return // the eventfd
			}
			if waiter := t.event(handle, events[i].Events); waiter != 0 {
				t.wake(waiter)
			}
		}
	}
}

// event records an event, and returns the waiter to wake, 0 if there is none.
func (t *Table) event(handle uint64, events uint32) (waiter uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[handle]
	if e == nil || e.fd < 0 {
		return 0 // the trigger has been released
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		e.gone = true
		// There will be no more events.
		_ = unix.EpollCtl(t.epoll, unix.EPOLL_CTL_DEL, e.fd, nil)
	} else {
		e.pending = true
	}
	waiter, e.Waiter = e.Waiter, 0
	return waiter
}

// Close ends all triggers; the Keeper keeps their records. No other method may be
// running or be called later.
func (t *Table) Close() {
	if t.epoll < 0 {
		return
	}
	one := [8]byte{1}
	_, _ = unix.Write(t.stop, one[:]) // it cannot be full
	<-t.stopped
	t.mu.Lock()
	for _, e := range t.entries {
		t.close(e, e.fd)
	}
	clear(t.entries)
	for t.open > 0 {
		closed := t.closed
		t.mu.Unlock()
		<-closed
		t.mu.Lock()
	}
	t.mu.Unlock()
	unix.Close(t.epoll)
	unix.Close(t.stop)
	t.epoll = -1
}
