package initpid

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Method Fork: the kernel translates the pid in an SCM_CREDENTIALS message from the
// sender's pid namespace to the receiver's. A process in the namespace sends "pid 1",
// and we receive the pid of the init.
//
// It takes two processes, because setns(2) into a pid namespace takes effect only for
// children. The first is a helper, this binary executed again: a process with threads
// must not fork without an exec. The second is its child. See helper.go.

// forker starts helpers.
type forker struct {
	exe   string        // path of the helper's binary
	arg   string        // its argv[0]
	null  int           // /dev/null
	slots chan struct{} // bounds the helpers that run
	turn  time.Duration // how long to wait for a slot: turnTimeout, less in tests
}

// turnTimeout bounds the wait for a slot. The wait is long only if very many namespaces
// are new at once, as after a restart. A caller that times out gets the host's numbers,
// which is worse than a wait.
const turnTimeout = 20 * time.Second

func newForker(most int) (*forker, error) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/null: %w", err)
	}
	return &forker{
		// Not the path of the binary: the file may have been replaced.
		exe:   "/proc/self/exe",
		arg:   helperArg,
		null:  null,
		slots: make(chan struct{}, max(most, 1)),
		turn:  turnTimeout,
	}, nil
}

func (f *forker) close() { unix.Close(f.null) }

// find asks a helper for the init of the pid namespace nsfd.
func (f *forker) find(nsfd int, timeout time.Duration) (int, error) {
	turn := time.NewTimer(f.turn)
	defer turn.Stop()
	select {
	case f.slots <- struct{}{}:
	case <-turn.C:
		return 0, fmt.Errorf("%w: %d others are running", ErrTimeout, cap(f.slots))
	}
	defer func() { <-f.slots }()

	ours, theirs, err := socketpair()
	if err != nil {
		return 0, err
	}
	h, err := f.start(nsfd, ours, theirs)
	if err != nil {
		return 0, err
	}
	defer h.end()
	return h.answer(time.Now().Add(timeout))
}

// socketpair makes the socket that the helper answers on.
func socketpair() (ours, theirs int, err error) {
	// SEQPACKET keeps message boundaries, and reports when the last sender is gone.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("%w: socketpair: %w", ErrHelper, err)
	}
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return -1, -1, fmt.Errorf("%w: setsockopt SO_PASSCRED: %w", ErrHelper, err)
	}
	return fds[0], fds[1], nil
}

// helper is a started helper. end must be called.
type helper struct {
	pid  int
	sock int
	eof  bool // helper and child have both closed their end
}

// start runs a helper on the namespace nsfd. It takes over both ends of the socket.
func (f *forker) start(nsfd, ours, theirs int) (*helper, error) {
	pid, err := syscall.ForkExec(f.exe, []string{f.arg}, &syscall.ProcAttr{
		Env: []string{"GOMAXPROCS=1"},
		// All other descriptors are close-on-exec: no helper keeps a connection of
		// /dev/fuse alive.
		Files: []uintptr{uintptr(f.null), uintptr(f.null), uintptr(f.null), helperNS: uintptr(nsfd), helperSock: uintptr(theirs)},
		// In a process group of its own, so that end kills the child too, whose pid
		// is not known here.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	// At once, so that we read the end of the file when the helper ends.
	unix.Close(theirs)
	if err != nil {
		unix.Close(ours)
		return nil, fmt.Errorf("%w: exec %s: %w", ErrHelper, f.exe, err)
	}
	return &helper{pid: pid, sock: ours}, nil
}

// answer returns the pid that the helper's child sent, and waits until both have ended,
// but not after the deadline.
func (h *helper) answer(deadline time.Time) (int, error) {
	msg, cred, err := h.receive(deadline)
	if err != nil {
		return 0, err
	}
	if msg == nil {
		return 0, fmt.Errorf("%w: it died without an answer", ErrHelper)
	}
	pid, err := parseAnswer(msg, cred)
	// Further messages do not matter. They should end by themselves, so that the
	// helper reaps its child. If they do not, end kills them.
	for !h.eof {
		if _, _, err := h.receive(deadline); err != nil {
			break
		}
	}
	return pid, err
}

// receive returns the next message, nil at the end of the file.
func (h *helper) receive(deadline time.Time) (msg []byte, cred *unix.Ucred, err error) {
	buf := make([]byte, 256)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, _, _, err := unix.Recvmsg(h.sock, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EAGAIN:
			if err := pollUntil(h.sock, deadline); err != nil {
				return nil, nil, err
			}
			continue
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("%w: recvmsg: %w", ErrHelper, err)
		case n == 0:
			h.eof = true
			return nil, nil, nil
		}
		cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(cmsgs) != 1 {
			return nil, nil, fmt.Errorf("%w: message without credentials", ErrHelper)
		}
		if cred, err = unix.ParseUnixCredentials(&cmsgs[0]); err != nil {
			return nil, nil, fmt.Errorf("%w: message without credentials: %w", ErrHelper, err)
		}
		return buf[:n], cred, nil
	}
}

// pollUntil waits until fd can be read. It returns ErrTimeout after the deadline.
func pollUntil(fd int, deadline time.Time) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return ErrTimeout
		}
		// Rounded up, so that the last millisecond is not a busy loop.
		n, err := unix.Poll(fds, int(left/time.Millisecond)+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("%w: poll: %w", ErrHelper, err)
		}
		if n > 0 {
			return nil
		}
	}
}

// parseAnswer parses a message, which is not empty.
func parseAnswer(msg []byte, cred *unix.Ucred) (int, error) {
	switch what, text := outcome(msg[0]), msg[1:]; {
	case what > failed, what == found && len(text) > 0:
		return 0, fmt.Errorf("%w: malformed message %x", ErrHelper, msg)
	case what != found:
		return 0, fmt.Errorf("%w: %s", outcomeErrors[what], text)
	case cred.Pid == 0:
		return 0, fmt.Errorf("init: %w", ErrNotVisible)
	}
	return int(cred.Pid), nil
}

// end ends both processes and closes the socket.
func (h *helper) end() {
	if !h.eof {
		// They may hang, or be stopped: a container's root may signal the child.
		// The process group is theirs, because its leader is not reaped.
		_ = unix.Kill(-h.pid, unix.SIGKILL)
	}
	for {
		if _, err := unix.Wait4(h.pid, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	unix.Close(h.sock)
}
