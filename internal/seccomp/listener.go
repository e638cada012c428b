// SPDX-License-Identifier: Apache-2.0

// Package seccomp is the supervisor's side of seccomp user notification
// (seccomp_unotify(2)): the kernel stops a thread at a system call, and whoever has the
// listener of its filter answers the call or lets it go on. The package also speaks the
// protocols in which container runtimes hand out listeners and notifications.
//
// It does not know which calls there are, nor what the answers mean.
package seccomp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Notification says that a thread waits at a system call (struct seccomp_notif,
// include/uapi/linux/seccomp.h).
type Notification struct {
	// ID names the call among those of the listener.
	ID uint64
	// TID is the thread in the pid namespace of the receiver, 0 if it has none there.
	TID   uint32
	Flags uint32 // always 0
	Call
	// IP is the instruction pointer.
	IP   uint64
	Args [6]uint64
}

// Call names a system call.
type Call struct {
	NR int32
	// Arch says which table of system calls the number is of (AUDIT_ARCH_..., as
	// include/uapi/linux/audit.h has them).
	Arch uint32
}

// Response is the answer to a notification (struct seccomp_notif_resp).
type Response struct {
	ID    uint64
	Value int64
	// Error is a negative errno, or 0.
	Error int32
	Flags uint32
}

// Continue lets the kernel carry out the call, as if there were no filter. The arguments
// that are in memory may be others by then.
func (n *Notification) Continue() Response {
	return Response{ID: n.ID, Flags: flagContinue}
}

// Return makes the call return v.
func (n *Notification) Return(v int64) Response { return Response{ID: n.ID, Value: v} }

// Continues reports whether r lets the kernel carry out the call.
func (r *Response) Continues() bool { return r.Flags&flagContinue != 0 }

// flagContinue is SECCOMP_USER_NOTIF_FLAG_CONTINUE (Linux 5.5).
const flagContinue = 1

// The sizes are part of the numbers of the ioctls below: a kernel with other structs has
// other numbers.
const (
	notificationSize = 80
	responseSize     = 24
)

var (
	_ [notificationSize]byte = [unsafe.Sizeof(Notification{})]byte{}
	_ [responseSize]byte     = [unsafe.Sizeof(Response{})]byte{}
)

// Ioctls that x/sys does not have.
const (
	ioctlIDValid  = 0x40082102 // SECCOMP_IOCTL_NOTIF_ID_VALID
	ioctlSetFlags = 0x40082104 // SECCOMP_IOCTL_NOTIF_SET_FLAGS (Linux 6.6)
)

// ErrNotListener says that a descriptor is no listener of a seccomp filter.
var ErrNotListener = errors.New("not the listener of a seccomp filter")

// Listener is the listener of a filter. One goroutine may receive at a time; the other
// methods are safe for concurrent use.
type Listener struct {
	fd   FD
	file *os.File
	conn syscall.RawConn

	// Of the call of Receive, here because a closure of its own each time would be
	// garbage.
	into    *Notification
	err     error
	attempt func(fd uintptr) (done bool)
}

// NewListener takes over a descriptor, which another process may have sent. It returns
// an error that wraps ErrNotListener for any other kind of file. After an error fd is
// closed.
func NewListener(fd int) (*Listener, error) {
	err := check(fd)
	if err == nil {
		// RECV ignores the flag, but Go polls only such descriptors.
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("seccomp listener: %w", err)
	}
	// The kernel then wakes the supervisor on the caller's CPU, and the caller on the
	// supervisor's. Before Linux 6.6 it is an error.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	l := &Listener{fd: FD(fd), file: os.NewFile(uintptr(fd), "seccomp listener")}
	if l.conn, err = l.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	l.attempt = func(fd uintptr) bool {
		l.err = FD(fd).tryReceive(l.into)
		return l.err != unix.EAGAIN
	}
	return l, nil
}

// name is what /proc/PID/fd has for a listener. Only the kernel makes such a name: that
// of a file begins with a slash.
const name = "anon_inode:seccomp notify"

// check returns nil if fd is a listener. The name comes first, because on another file
// the number of the ioctl may mean anything.
func check(fd int) error {
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	if link != name {
		return fmt.Errorf("%.80q: %w", link, ErrNotListener)
	}
	if e := FD(fd).idValid(0); e != 0 && e != unix.ENOENT {
		return fmt.Errorf("ioctl SECCOMP_IOCTL_NOTIF_ID_VALID: %w: %w", ErrNotListener, e)
	}
	return nil
}

// FD returns the descriptor, which is valid until Close.
func (l *Listener) FD() FD { return l.fd }

// Receive waits for a notification. It returns io.EOF when no thread has the filter any
// more, and os.ErrClosed after Close. Before Linux 6.11 a process has its filter until it is
// reaped.
//
// The thread may be gone by the time that Receive returns: see Valid. n is zero until the
// kernel writes to it.
func (l *Listener) Receive(n *Notification) error {
	l.into = n
	if l.conn.Read(l.attempt) != nil {
		return os.ErrClosed // it has no other error
	}
	return l.err
}

// Valid reports whether the thread still waits at the call. What was opened by its id
// before is then its own.
func (l *Listener) Valid(id uint64) (ok bool) {
	_ = l.conn.Control(func(fd uintptr) { ok = FD(fd).Valid(id) }) // an error says that l is closed
	return ok
}

// Send answers a notification. It returns unix.ENOENT if the thread does not wait any
// more, which is no failure.
func (l *Listener) Send(r *Response) error {
	var err error
	if e := l.conn.Control(func(fd uintptr) { err = FD(fd).Send(r) }); e != nil {
		return e
	}
	return err
}

// Close closes this descriptor. When the last one of a filter is closed, its threads get
// ENOSYS, those that wait too.
func (l *Listener) Close() error { return l.file.Close() }

// FD is the descriptor of a listener, for a process that answers what another one has
// received.
type FD int

// Poll reports whether a notification waits, and whether no thread has the filter any more.
// It does not wait.
func (fd FD) Poll() (pending, ended bool, err error) {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p[:], 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return false, false, fmt.Errorf("poll a seccomp listener: %w", err)
		}
		pending = p[0].Revents&unix.POLLIN != 0
		return pending, !pending && p[0].Revents != 0, nil
	}
}

// Receive receives a notification. It waits if there is none, and returns unix.ENOENT if its
// thread is gone.
func (fd FD) Receive(n *Notification) error {
	// The kernel wants zeros there (check_zeroed_user).
	*n = Notification{}
	return ioctl(int(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n))
}

// tryReceive is Receive, but returns EAGAIN instead of waiting. It polls first, because
// O_NONBLOCK has no effect on SECCOMP_IOCTL_NOTIF_RECV.
func (fd FD) tryReceive(n *Notification) error {
	for {
		switch pending, ended, err := fd.Poll(); {
		case err != nil:
			return err
		case ended:
			return io.EOF
		case !pending:
			return unix.EAGAIN
		}
		err := fd.Receive(n)
		switch err {
		case nil:
			return nil
		case unix.EINTR, unix.ENOENT:
			// A signal or the end of the thread ended the call meanwhile.
			continue
		}
		return fmt.Errorf("ioctl SECCOMP_IOCTL_NOTIF_RECV: %w", err)
	}
}

// Valid is that of Listener.
func (fd FD) Valid(id uint64) bool { return fd.idValid(id) == 0 }

// Send is that of Listener.
func (fd FD) Send(r *Response) error {
	return ioctl(int(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(r))
}

func (fd FD) idValid(id uint64) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlIDValid, uintptr(unsafe.Pointer(&id)))
	return e
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
