// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for descriptors: an epoll instance. It is for one goroutine.
//
// It cannot be left to the poller of the Go runtime, which would ask an epoll instance for its
// events by asking for those of its descriptors; and who asks for the changes of a mountinfo
// takes them.
type poller struct{ fd int }

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	return &poller{fd}, nil
}

func (p *poller) close() { unix.Close(p.fd) }

// add has the poller report events (EPOLLIN and so on) of fd.
func (p *poller) add(fd int, events uint32) error { return p.control(unix.EPOLL_CTL_ADD, fd, events) }

// again has the poller report events of fd after one that was added with EPOLLONESHOT.
func (p *poller) again(fd int, events uint32) error { return p.control(unix.EPOLL_CTL_MOD, fd, events) }

func (p *poller) control(op, fd int, events uint32) error {
	if err := unix.EpollCtl(p.fd, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// wait waits until there are events, or until a time, and returns how many there are. After a
// signal there may be none.
func (p *poller) wait(ready []unix.EpollEvent, until time.Time) (int, error) {
	left := (time.Until(until) + time.Millisecond - 1).Milliseconds()
	n, err := unix.EpollWait(p.fd, ready, int(max(0, left)))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return 0, fmt.Errorf("epoll_wait: %w", err)
	}
	return max(0, n), nil
}
