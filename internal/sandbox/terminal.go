package sandbox

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long to wait whether run is stopped together with its
// container. Time goes on while it is.
const stopTimeout = 100 * time.Millisecond

// terminal is the controlling terminal of run, where run is in its foreground.
// The zero value is none.
//
// The container then has the foreground, in a process group that its init leads,
// and run does for it what a shell does for a job. In the group of run it could
// not stay: that has no number in the container's pid namespace, so a shell there
// could not give the terminal back when it ends (dash says so and exits with
// status 2).
type terminal struct {
	tty   *os.File
	group int // the process group of run
}

func openTerminal() terminal {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return terminal{}
	}
	t := terminal{tty, unix.Getpgrp()}
	if t.front() != t.group {
		tty.Close()
		return terminal{}
	}
	return t
}

// handTo makes the process that is started with attr the leader of a process
// group of its own, which has the terminal.
func (t *terminal) handTo(attr *syscall.SysProcAttr) {
	if t.tty != nil {
		attr.Foreground = true
		attr.Ctty = int(t.tty.Fd())
	}
}

// front is the process group in the foreground, or -1.
func (t *terminal) front() int {
	group, err := unix.IoctlGetInt(int(t.tty.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return group
}

// setFront brings a process group to the foreground. It may fail: the terminal or
// the group may be gone.
func (t *terminal) setFront(group int) {
	// The kernel stops a background process that does this, unless it ignores it.
	signal.Ignore(unix.SIGTTOU)
	_ = unix.IoctlSetPointerInt(int(t.tty.Fd()), unix.TIOCSPGRP, group)
	signal.Reset(unix.SIGTTOU)
}

// stop stops run with its process group, as the terminal's key has stopped the
// container, so that the shell that has started them takes over.
func (t *terminal) stop() {
	if t.tty != nil {
		t.setFront(t.group)
		_ = unix.Kill(0, unix.SIGTSTP) // to ourselves, who exist
	}
}

// resume lets the container with this init go on, in the foreground if run is
// there now.
func (t *terminal) resume(init int) {
	if t.tty != nil {
		if t.front() == t.group {
			t.setFront(init)
		}
		_ = unix.Kill(-init, unix.SIGCONT) // an error says that it has ended
	}
}

// restore takes the terminal back when the container has ended, from its process
// group or that of a shell in it. Another group may have it meanwhile: a shell's
// that has sent run to the background.
func (t *terminal) restore() {
	if t.tty == nil {
		return
	}
	if front := t.front(); front > 0 && front != t.group && errors.Is(unix.Kill(-front, 0), unix.ESRCH) {
		t.setFront(t.group)
	}
	t.tty.Close()
}
