// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Answers of Ping.
var (
	// ErrNoPong says that the reader did not come to the ping in time.
	ErrNoPong = errors.New("the reader of the fuse connection does not answer")
	// ErrNoFile says that there is no way to ask.
	ErrNoFile = errors.New("the kernel knows no file of the mount")
)

// Ping sends a request through the kernel to the reader of this connection and
// waits until it has come there, or the timeout has passed (ErrNoPong). It needs
// no path and no other process: the request is the kernel's answer to
// FUSE_NOTIFY_RETRIEVE of no bytes of a file. The kernel must know one: ErrNoFile
// says that it does not, as nobody has opened any. Other errors are those of a
// connection that is over. It is safe for concurrent use, while Serve runs.
func (s *Server) Ping(timeout time.Duration) error {
	unique := rand.Uint64() | 1 // those of the kernel's own requests are even
	pong := make(chan struct{})
	s.pings.Store(unique, pong)
	defer s.pings.Delete(unique)
	errno := syscall.ENOENT
	for _, n := range s.tree.files {
		if errno = s.conn.retrieve(n.id, unique); errno != syscall.ENOENT {
			break
		}
	}
	if errno == syscall.ENOENT {
		return ErrNoFile
	}
	if errno != 0 {
		return fmt.Errorf("ping the fuse connection: %w", errno)
	}
	select {
	case <-pong:
		return nil
	case <-time.After(timeout):
		return ErrNoPong
	}
}

// retrieve makes the kernel send a NOTIFY_REPLY with the given unique, if it knows
// the file.
func (c *Conn) retrieve(id NodeID, unique uint64) syscall.Errno {
	return notify(c, notifyRetrieve, retrieveOut{Unique: unique, NodeID: id})
}

// Connected reports whether the connection of the descriptor fd of /dev/fuse is mounted
// somewhere and not aborted. It disturbs nobody.
func Connected(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&(unix.POLLERR|unix.POLLNVAL) == 0
}
