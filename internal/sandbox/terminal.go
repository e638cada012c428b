// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long Run waits to be stopped together with its container. The
// clock runs on while it is stopped.
const stopTimeout = 100 * time.Millisecond

// terminal is the controlling terminal of Run, if Run is in the foreground. The zero
// value means that there is none.
//
// The container gets the foreground, in a process group of its own that its init leads,
// and Run does what a shell does for a job. The container cannot stay in the process
// group of Run, which has no number in the container's pid namespace: a shell in there
// could not give the terminal back when it ends (dash prints an error and exits with
// status 2).
type terminal struct {
	tty   *os.File
	group int // process group of Run
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

// handTo makes the process that is started with attr the leader of a new process
// group in the foreground.
func (t *terminal) handTo(attr *syscall.SysProcAttr) {
	if t.tty != nil {
		attr.Foreground = true
		attr.Ctty = int(t.tty.Fd())
	}
}

// front returns the process group in the foreground, or -1.
func (t *terminal) front() int {
	group, err := unix.IoctlGetInt(int(t.tty.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return group
}

// setFront brings a process group to the foreground. It does nothing if the terminal
// or the group no longer exists.
func (t *terminal) setFront(group int) {
	// The kernel stops a background process that does this, unless SIGTTOU is ignored.
	signal.Ignore(unix.SIGTTOU)
	_ = unix.IoctlSetPointerInt(int(t.tty.Fd()), unix.TIOCSPGRP, group)
	signal.Reset(unix.SIGTTOU)
}

// stop stops Run and its process group, after the terminal's key has stopped the
// container, so that the shell that started Run gets the terminal.
func (t *terminal) stop() {
	if t.tty != nil {
		t.setFront(t.group)
		_ = unix.Kill(0, unix.SIGTSTP) // cannot fail: this process is in the group
	}
}

// resume continues the container with this init, in the foreground if Run is there.
func (t *terminal) resume(init int) {
	if t.tty != nil {
		if t.front() == t.group {
			t.setFront(init)
		}
		_ = unix.Kill(-init, unix.SIGCONT) // an error means that it has ended
	}
}

// restore takes the terminal back after the container has ended, if no living process
// group has it. A shell may have it that has moved Run to the background.
func (t *terminal) restore() {
	if t.tty == nil {
		return
	}
	if front := t.front(); front > 0 && front != t.group && errors.Is(unix.Kill(-front, 0), unix.ESRCH) {
		t.setFront(t.group)
	}
	t.tty.Close()
}
