// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A bundle keeps descriptors open in flight (SCM_RIGHTS, unix(7)) between two sockets:
// as long as any process has the holding end. So one descriptor, which a process can
// hand on, stands for any number of them.
type bundle struct {
	sendFD int // -1 for a bundle of another process
	holdFD int
}

// maxRights is the number of descriptors in one message (SCM_MAX_FD, include/net/scm.h).
const maxRights = 253

func newBundle() (*bundle, error) {
	// A stream has no limit for the number of messages but its buffer.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	return &bundle{sendFD: fds[0], holdFD: fds[1]}, nil
}

// add puts descriptors into the bundle; they stay the caller's. It returns EAGAIN if
// the bundle is full: one that is filled with a single call holds tens of thousands,
// one that is filled one by one some 200.
func (b *bundle) add(fds ...int) error {
	for len(fds) > 0 {
		n := min(len(fds), maxRights)
		err := unix.Sendmsg(b.sendFD, []byte{0}, unix.UnixRights(fds[:n]...), nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send descriptors: %w", err)
		}
		fds = fds[n:]
	}
	return nil
}

// receive returns the descriptors of the first message, none if there is no message. With
// MSG_PEEK they stay in the bundle too.
func (b *bundle) receive(flags int) ([]int, error) {
	var data [1]byte
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	flags |= unix.MSG_CMSG_CLOEXEC | unix.MSG_DONTWAIT
	n, oobn, _, _, err := unix.Recvmsg(b.holdFD, data[:], oob, flags)
	for err == unix.EINTR {
		n, oobn, _, _, err = unix.Recvmsg(b.holdFD, data[:], oob, flags)
	}
	if err == unix.EAGAIN || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("receive descriptors: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	return unix.ParseUnixRights(&messages[0])
}

// empty closes the descriptors in the bundle, also if another process holds it.
func (b *bundle) empty() error {
	for {
		fds, err := b.receive(0)
		if err != nil || len(fds) == 0 {
			return err
		}
		closeAll(fds)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// close closes this process's ends. The descriptors stay open if another process has
// the holding end.
func (b *bundle) close() error {
	var errs []error
	for _, fd := range []int{b.sendFD, b.holdFD} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// end empties and closes b, which may be nil.
func (b *bundle) end() error {
	if b == nil {
		return nil
	}
	return errors.Join(b.empty(), b.close())
}

// BundleRoot returns the clone of the mount that the Pins of another process have left in
// the bundle whose holding end is fd. It stays in the bundle too.
func BundleRoot(fd int) (mountfd int, err error) {
	fds, err := (&bundle{sendFD: -1, holdFD: fd}).receive(unix.MSG_PEEK)
	if err == nil && len(fds) == 0 {
		err = unix.ENOENT
	}
	if err != nil {
		return -1, fmt.Errorf("clone of the mount in the bundle: %w", err)
	}
	closeAll(fds[1:])
	return fds[0], nil
}

// EmptyBundle closes the descriptors that the Pins of another process have left in the
// bundle whose holding end is fd, and closes fd.
func EmptyBundle(fd int) error { return (&bundle{sendFD: -1, holdFD: fd}).end() }
