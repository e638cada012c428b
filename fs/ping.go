package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
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

// notifyRetrieve is FUSE_NOTIFY_RETRIEVE of include/uapi/linux/fuse.h (Linux
// 2.6.36).
const notifyRetrieve = 5

// pings are the pings that wait for their pongs. It is safe for concurrent use.
type pings struct {
	mu      sync.Mutex
	waiting map[uint64]chan struct{}
}

// Ping sends a request through the kernel to the reader of this connection and
// waits until it has come there, or the timeout has passed (ErrNoPong). It needs
// no path and no other process: the request is the kernel's answer to
// FUSE_NOTIFY_RETRIEVE of no bytes of a file. The kernel must know one: ErrNoFile
// says that it does not, as nobody has opened any. Other errors are those of a
// connection that is over. It is safe for concurrent use, while Serve runs.
func (s *Server) Ping(timeout time.Duration) error {
	unique := rand.Uint64() | 1 // those of the kernel's own requests are even
	pong := make(chan struct{})
	s.pings.expect(unique, pong)
	defer s.pings.expect(unique, nil)
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
	// struct fuse_out_header, whose error is the code of the notification,
	// and struct fuse_notify_retrieve_out: notify_unique, nodeid, offset, size.
	var b [outHeaderSize + 32]byte
	le := binary.NativeEndian
	le.PutUint32(b[0:], uint32(len(b)))
	le.PutUint32(b[4:], notifyRetrieve)
	le.PutUint64(b[16:], unique)
	le.PutUint64(b[24:], uint64(id))
	return rawWrite(c.fd, b[:])
}

// Connected reports whether the connection of the descriptor fd of /dev/fuse is mounted
// somewhere and not aborted. It disturbs nobody.
func Connected(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&(unix.POLLERR|unix.POLLNVAL) == 0
}

func (p *pings) expect(unique uint64, pong chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pong == nil {
		delete(p.waiting, unique)
		return
	}
	if p.waiting == nil {
		p.waiting = make(map[uint64]chan struct{})
	}
	p.waiting[unique] = pong
}

func (p *pings) pong(unique uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.waiting[unique]; c != nil {
		delete(p.waiting, unique)
		close(c)
	}
}
