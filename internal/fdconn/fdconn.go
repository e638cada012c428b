// SPDX-License-Identifier: Apache-2.0

// Package fdconn connects two processes of this program: they send each other short
// texts, each with one descriptor at most.
package fdconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// MaxText bounds a text, in bytes.
const MaxText = 4096

// Conn is one end of a pair of sockets. Its methods are safe for concurrent use.
type Conn struct{ *net.UnixConn }

// Pair returns this process's end, and the other's as a file.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	c, err := New(os.NewFile(uintptr(fds[0]), "socket"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c, theirs, nil
}

// New returns the end that f is, and closes f.
func New(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a Unix socket"), c.Close())
	}
	return &Conn{u}, nil
}

// Send sends a text, with a descriptor unless fd is negative. It never waits: an error
// means that the other end is closed, or that it has not read for long.
func (c *Conn) Send(text string, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(socket uintptr) bool {
		sendErr = unix.Sendmsg(int(socket), []byte(text), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return errors.Join(err, sendErr)
}

// Receive waits for a text. It returns the descriptor that has come with it, -1 for none.
// It returns io.EOF if the other end is closed.
func (c *Conn) Receive() (text string, fd int, err error) {
	b, rights := make([]byte, MaxText), make([]byte, unix.CmsgSpace(4))
	n, rightsLen, _, _, err := c.ReadMsgUnix(b, rights) // close-on-exec
	if err == nil && n == 0 || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		err = io.EOF // the bare one
	}
	if err != nil {
		return "", -1, err
	}
	fd = -1
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	if err == nil && len(messages) > 0 {
		var fds []int
		if fds, err = unix.ParseUnixRights(&messages[0]); len(fds) > 0 {
			fd = fds[0]
		}
	}
	return string(b[:n]), fd, err
}
