// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// watchPressure is the program of the kernel's documentation
// (Documentation/accounting/psi.rst, "Userspace monitor usage example"), call for
// call, for MODE poll, and the same with epoll(7) for MODE epoll:
//
//	psi MODE FILE TRIGGER EVENTS
//
// It prints a line when it waits and for each event, and ends after EVENTS of them
// or when the event source is gone.
func watchPressure(args []string) error {
	mode, path, trigger := args[0], args[1], args[2]
	events, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%s open error: %w", path, err)
	}
	if _, err := unix.Write(fd, append([]byte(trigger), 0)); err != nil {
		return fmt.Errorf("%s write error: %w", path, err)
	}
	wait := pollForever
	if mode == "epoll" {
		if wait, err = epollForever(fd); err != nil {
			return err
		}
	}
	fmt.Println("waiting for events...")
	for range events {
		got, err := wait(fd)
		switch {
		case err != nil:
			return fmt.Errorf("%s error: %w", mode, err)
		case got&unix.POLLERR != 0:
			fmt.Println("got POLLERR, event source is gone")
			return nil
		case got&unix.POLLPRI == 0:
			return fmt.Errorf("unknown event received: %#x", got)
		}
		fmt.Println("event triggered!")
	}
	return nil
}

func pollForever(fd int) (uint32, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	for {
		_, err := unix.Poll(fds, -1)
		if err != unix.EINTR { // Go's own signals
			return uint32(fds[0].Revents), err
		}
	}
}

func epollForever(fd int) (func(int) (uint32, error), error) {
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLPRI}); err != nil {
		return nil, err
	}
	return func(int) (uint32, error) {
		var e [1]unix.EpollEvent
		for {
			_, err := unix.EpollWait(ep, e[:], -1)
			if err != unix.EINTR {
				return e[0].Events, err
			}
		}
	}, nil
}

// osRead reads FILE a hundred times as a Go program does, and prints it:
//
//	osread FILE
func osRead(args []string) error {
	var text []byte
	for range 100 {
		var err error
		if text, err = os.ReadFile(args[0]); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.SetDeadline(time.Now().Add(time.Hour)); err != nil {
		return fmt.Errorf("it is in no epoll set: %w", err)
	}
	_, err = os.Stdout.Write(text)
	return err
}
