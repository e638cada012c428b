package fs

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Pins keep the files of a mount open, so that no process gets a lease on them.
//
// A write lease on a file (F_SETLEASE, fcntl(2)) delays every other open(2) of it for
// up to fs.lease-break-time seconds, 45 by default, and whoever has the uid of the file
// may ask for one: uid 0 of a container without a user namespace. All containers share
// the inodes. The kernel grants a write lease only if no other descriptor of the file is
// open, and a read lease, which delays who opens the file for writing, only if none is
// open for writing (check_conflicting_open, fs/locks.c).
//
// The files are opened through a private clone of the mount, so that the mount point can
// be unmounted. They keep the file system alive then: the owner must Close the Pins once
// nobody else uses it.
//
// The descriptors outlive the process in a bundle, whose holding end keep gives to
// another process. The methods are safe for concurrent use.
type Pins struct {
	root int
	keep func(fd int)

	// thread is the id of the thread that opens a pin, 0 for none. The Server answers
	// its OPEN at once.
	thread atomic.Int32
	// opening is held while a pin is opened. The reader of the connection must not wait
	// for it: it has to answer the OPEN.
	opening sync.Mutex

	mu     sync.Mutex
	files  map[NodeID]int
	bundle *bundle // nil before the first pin
	closed bool
}

// errPinsClosed is what is made of Pins after Close.
var errPinsClosed = errors.New("the pins are closed")

// NewPins makes Pins without files. root is the root of a private clone of the mount
// (Clone) and becomes the Pins'. keep is called with the holding end of each new bundle,
// which stays the Pins': it replaces the one before.
func NewPins(root int, keep func(fd int)) *Pins {
	return &Pins{root: root, keep: keep, files: make(map[NodeID]int)}
}

// isOpening reports whether c is the thread that opens a pin.
func (p *Pins) isOpening(c Caller) bool {
	return p != nil && c.PID != 0 && int32(c.PID) == p.thread.Load()
}

func (p *Pins) has(id NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.files[id]
	return ok
}

// open opens the file at path below the root of the mount: for writing too, if the mount
// can be written to. It returns EAGAIN if another process has a lease on the file; the
// kernel ends the lease within fs.lease-break-time then. Another goroutine must be
// reading from the connection.
func (p *Pins) open(path string) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.thread.Store(int32(unix.Gettid()))
	defer p.thread.Store(0)
	access := unix.O_RDWR
	for {
		fd, err := unix.Openat(p.root, path, access|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EROFS && access == unix.O_RDWR:
			access = unix.O_RDONLY
		case err != nil:
			return -1, fmt.Errorf("pin %s: %w", path, err)
		default:
			return fd, nil
		}
	}
}

// add opens pins for the files of paths that have none, and adds them to the bundle.
// It opens as many as it can.
func (p *Pins) add(paths map[NodeID]string) error {
	p.opening.Lock()
	defer p.opening.Unlock()
	var errs []error
	opened := make(map[NodeID]int)
	for id, path := range paths {
		if p.has(id) {
			continue
		}
		fd, err := p.open(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		opened[id] = fd
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		for _, fd := range opened {
			unix.Close(fd)
		}
		return errPinsClosed
	}
	fds := make([]int, 0, len(opened))
	for id, fd := range opened {
		p.files[id] = fd
		fds = append(fds, fd)
	}
	if len(fds) > 0 {
		errs = append(errs, p.send(fds))
	}
	return errors.Join(errs...)
}

// send adds descriptors of p.files to the bundle. p.mu is held.
func (p *Pins) send(fds []int) error {
	if p.bundle == nil {
		return p.pack()
	}
	err := p.bundle.add(fds...)
	if errors.Is(err, unix.EAGAIN) {
		err = p.pack()
	}
	return err
}

// pack puts all pins into a new bundle. p.mu is held.
func (p *Pins) pack() error {
	b, err := newBundle()
	if err != nil {
		return err
	}
	fds := make([]int, 0, len(p.files))
	for _, fd := range p.files {
		fds = append(fds, fd)
	}
	if err := b.add(fds...); err != nil {
		return errors.Join(err, b.close())
	}
	p.keep(b.holdFD)
	old := p.bundle
	p.bundle = b
	return old.end()
}

// Close ends the pins and the clone of the mount. If nobody else uses the file system, it
// ends too.
func (p *Pins) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errPinsClosed
	}
	p.closed = true
	for _, fd := range p.files {
		unix.Close(fd)
	}
	clear(p.files)
	return errors.Join(p.bundle.end(), unix.Close(p.root))
}

// Pin opens pins for the files that have none yet. Serve must be running, and the Server
// have Pins. The error wraps EAGAIN if another process has a lease on a file: Pin is to be
// called again later.
func (s *Server) Pin() error {
	paths := make(map[NodeID]string)
	for _, n := range s.tree.files {
		paths[n.id] = s.tree.path(n)
	}
	return s.pins.add(paths)
}

// pinReply makes the reply to the OPEN of a pin. Nobody reads from the descriptor: it
// needs no handle.
func pinReply(t *Turn) (int, error) {
	out, size := place[fuse.OpenOut](t.out)
	out.Fh, out.OpenFlags = noHandle, fuse.FOPEN_DIRECT_IO
	return size, nil
}
