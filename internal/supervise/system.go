package supervise

import (
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// system is what can fail for want of resources, and time. Tests have it fail.
type system struct {
	socketpair func() ([2]int, error)
	dup        func(fd int) (int, error)
	start      func(*exec.Cmd) error
	now        func() time.Time
	sleep      func(time.Duration)
}

func realSystem() system {
	return system{
		socketpair: func() ([2]int, error) {
			return unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		},
		dup:   func(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) },
		start: (*exec.Cmd).Start,
		now:   time.Now,
		sleep: time.Sleep,
	}
}
