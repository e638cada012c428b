// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
)

// killTimeout is how long after SIGTERM a container is killed.
const killTimeout = 10 * time.Second

// forwarded are the signals that Run forwards to the command.
var forwarded = [...]os.Signal{
	unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH,
}

// What Run and the init send to each other. The first text to the init is controlStart.
// Each later one is the number of a signal for the command. At end of file, which means
// that Run has ended, the init ends too. The init sends controlStopped when the command
// has been stopped, and before it starts controlListener, with the listener of its seccomp
// filter if it has one.
const (
	controlStart    = "start"
	controlStopped  = "stopped"
	controlListener = "listener"
)

// notify returns a channel of the signals. Those that this process was started with
// as ignored (nohup(1), & in a shell) stay ignored, and are so for the command too.
func notify(signals ...os.Signal) chan os.Signal {
	c := make(chan os.Signal, 64)
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return c
}

// container is a running container as Run sees it.
type container struct {
	init     *exec.Cmd
	control  *fdconn.Conn
	answer   func(listener int) // nil: there is no filter
	terminal terminal
}

// startContainer starts the init of a container, which waits until wait is called. The
// view is that of the daemon at o.Dir or, if that is empty, the detached mount view,
// which startContainer closes.
//
// The container has the host's cgroup namespace, because it has the host's cgroup file
// systems: the paths of /proc/self/cgroup must fit them. It also has the host's UTS and
// IPC namespaces, which no number of /proc depends on.
func startContainer(o Options, view *os.File, args []string) (*container, error) {
	ours, theirs, err := fdconn.Pair() // the command inherits neither
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", InitVerb, "--mount="+o.Dir, fmt.Sprintf("--syscalls=%t", o.Answer != nil), "--")
	cmd.Args = append(cmd.Args, args...)
	cmd.Args[0] = "vprocfs"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	if view != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, view)
		defer view.Close()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	t := openTerminal()
	t.handTo(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		t.restore()
		return nil, errors.Join(fmt.Errorf("start the container's init: %w", err), ours.Close())
	}
	return &container{init: cmd, control: ours, answer: o.Answer, terminal: t}, nil
}

// pid returns the pid of the init on the host.
func (c *container) pid() int { return c.init.Process.Pid }

// kill ends a container that has not started.
func (c *container) kill() error {
	err := c.init.Process.Kill()
	_ = c.init.Wait() // returns that it was killed
	c.terminal.restore()
	return errors.Join(err, c.control.Close())
}

// wait starts the container and returns its exit status as an error, unless it is 0.
func (c *container) wait(signals <-chan os.Signal) error {
	defer c.terminal.restore()
	defer func() { _ = c.control.Close() }() // nothing is left to send
	c.send(controlStart)
	ended := make(chan error, 1)
	go func() { ended <- c.init.Wait() }()
	stopped := make(chan struct{})
	go c.readMessages(stopped)
	continued := notify(unix.SIGCONT)
	var deadline, resume <-chan time.Time
	for {
		select {
		case err := <-ended:
			return c.status(err)
		case s := <-signals:
			if s == unix.SIGTERM && deadline == nil {
				deadline = time.After(killTimeout)
			}
			c.send(strconv.Itoa(int(s.(syscall.Signal))))
		case <-stopped:
			c.terminal.stop()
			// The kernel does not stop a process group that nobody could continue.
			resume = time.After(stopTimeout)
		case <-continued:
			c.terminal.resume(c.pid())
		case <-resume:
			c.terminal.resume(c.pid())
		case <-deadline:
			_ = c.init.Process.Kill() // an error means that it has just ended
		}
	}
}

// send sends a text to the init. An error means that the init has ended, and wait will
// see its exit status.
func (c *container) send(text string) { _ = c.control.Send(text, -1) }

// readMessages sends to stopped each time the command has been stopped, until the init
// ends, and hands on the listener.
func (c *container) readMessages(stopped chan<- struct{}) {
	for {
		text, fd, err := c.control.Receive()
		switch {
		case err != nil:
			return
		case text == controlListener:
			c.answer(fd)
		default:
			stopped <- struct{}{}
		}
	}
}

// status returns the exit status of the init, as an error, for the error of Wait.
func (c *container) status(err error) error {
	if err == nil {
		return nil
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return fmt.Errorf("wait for the container's init: %w", err)
	}
	ws := exit.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return &ExitError{128 + int(ws.Signal()), fmt.Errorf("the container's init was ended by signal %d (%s)", ws.Signal(), ws.Signal())}
	}
	return &ExitError{Status: ws.ExitStatus()}
}
