// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
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

// socketpair makes the socket that the helper answers on. It keeps message boundaries, and
// reports when the last sender is gone (SOCK_SEQPACKET).
func socketpair() (ours *fdconn.Conn, theirs *os.File, err error) {
	ours, theirs, err = fdconn.Pair()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrHelper, err)
	}
	raw, err := ours.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { // fails only for a closed socket
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		})
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%w: setsockopt SO_PASSCRED: %w", ErrHelper, err), ours.Close(), theirs.Close())
	}
	return ours, theirs, nil
}

// helper is a started helper. end must be called.
type helper struct {
	pid  int
	conn *fdconn.Conn
	eof  bool // helper and child have both closed their end
}

// start runs a helper on the namespace nsfd. It takes over both ends of the socket.
func (f *forker) start(nsfd int, ours *fdconn.Conn, theirs *os.File) (*helper, error) {
	pid, err := syscall.ForkExec(f.exe, []string{f.arg}, &syscall.ProcAttr{
		Env: []string{"GOMAXPROCS=1"},
		// All other descriptors are close-on-exec: no helper keeps a connection of
		// /dev/fuse alive.
		Files: []uintptr{uintptr(f.null), uintptr(f.null), uintptr(f.null), helperNS: uintptr(nsfd), helperSock: theirs.Fd()},
		// In a process group of its own, so that end kills the child too, whose pid
		// is not known here.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	// At once, so that we read the end of the file when the helper ends.
	theirs.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: exec %s: %w", ErrHelper, f.exe, err), ours.Close())
	}
	return &helper{pid: pid, conn: ours}, nil
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

// receive returns the next message, nil at the end of the file. It returns ErrTimeout
// after the deadline.
func (h *helper) receive(deadline time.Time) (msg []byte, cred *unix.Ucred, err error) {
	buf := make([]byte, 256)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	if err := h.conn.SetReadDeadline(deadline); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrHelper, err)
	}
	n, oobn, _, _, err := h.conn.ReadMsgUnix(buf, oob)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil, ErrTimeout
	case err == nil && n == 0, errors.Is(err, io.EOF):
		h.eof = true
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("%w: recvmsg: %w", ErrHelper, err)
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
	_ = h.conn.Close()
}
