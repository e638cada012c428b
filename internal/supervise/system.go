// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
)

// system is what can fail for want of resources, and time. Tests have it fail.
type system struct {
	pair      func() (*fdconn.Conn, *os.File, error)
	dup       func(fd int) (int, error)
	start     func(*exec.Cmd) error
	pidfdOpen func(pid int) (int, error)
	poll      func(pidfd int) (int, error) // waits for the end of the process
	now       func() time.Time
	sleep     func(time.Duration)
}

func realSystem() system {
	return system{
		pair:      fdconn.Pair,
		dup:       func(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) },
		start:     (*exec.Cmd).Start,
		pidfdOpen: func(pid int) (int, error) { return unix.PidfdOpen(pid, 0) },
		poll:      func(fd int) (int, error) { return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1) },
		now:       time.Now,
		sleep:     time.Sleep,
	}
}
