// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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
	keep   func(fd int)
	opener OpenFunc

	// thread is the id of the thread that opens a pin, 0 for none. The Server answers its
	// OPEN at once.
	thread atomic.Int32
	// opening is held while a pin is opened. The reader of the connection, which answers
	// the OPEN, must not wait for it. What mu guards is only written with both held.
	opening sync.Mutex

	mu     sync.Mutex
	root   int // the clone; -1 while closed
	files  map[NodeID]*pin
	bundle *bundle // nil until all files are pinned; the clone comes first in it
}

// pin is a file that is kept open.
type pin struct {
	fd int
	// owner is who has opened a file of the host's first, users how many turns are about
	// to open it.
	owner uint64
	users int
}

// ErrPinsClosed is returned for Pins that are not open.
var ErrPinsClosed = errors.New("the pins are closed")

// NewPins makes Pins that are closed. keep is called with the holding end of each new
// bundle, which stays the Pins': it replaces the one before.
func NewPins(opener OpenFunc, keep func(fd int)) *Pins {
	return &Pins{opener: opener, keep: keep, root: -1, files: make(map[NodeID]*pin)}
}

// Open opens the Pins, without files. root is the root of a private clone of the mount
// (Clone) and becomes the Pins'.
func (p *Pins) Open(root int) {
	p.opening.Lock()
	defer p.opening.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.root = root
}

// IsOpen reports whether the Pins are open.
func (p *Pins) IsOpen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.root >= 0
}

// isOpening reports whether c is the thread that opens a pin.
func (p *Pins) isOpening(c Caller) bool {
	return p != nil && c.PID != 0 && int32(c.PID) == p.thread.Load()
}

// open opens the file at path. The mutex opening is held.
func (p *Pins) open(path string) (int, error) {
	defer p.thread.Store(0)
	fd, err := p.opener(p.root, path, func(thread int) { p.thread.Store(int32(thread)) })
	if err != nil {
		return -1, fmt.Errorf("pin %s: %w", path, err)
	}
	return fd, nil
}

// An OpenFunc does OpenPin in a thread of another process, whose id it announces before.
type OpenFunc func(root int, path string, announce func(thread int)) (fd int, err error)

// OpenPin opens the file at path below the root of a mount: for writing too, if the Server
// knows the thread. It returns EAGAIN if another process has a lease on the file; the
// kernel ends the lease within fs.lease-break-time then. It waits for the Server: a
// process that serves the mount must not call it.
func OpenPin(root int, path string) (fd int, err error) {
	access := unix.O_RDWR
	for {
		fd, err := unix.Openat(root, path, access|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EROFS && access == unix.O_RDWR:
			access = unix.O_RDONLY
		default:
			return fd, err
		}
	}
}

// add opens pins for the files of paths that have none, and adds them to the bundle.
// It opens as many as it can.
func (p *Pins) add(paths map[NodeID]string) error {
	p.opening.Lock()
	defer p.opening.Unlock()
	if p.root < 0 {
		return ErrPinsClosed
	}
	var errs []error
	var fds []int
	opened := make(map[NodeID]*pin, len(paths))
	for _, id := range slices.Sorted(maps.Keys(paths)) {
		if p.files[id] != nil {
			continue
		}
		fd, err := p.open(paths[id])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fds = append(fds, fd)
		opened[id] = &pin{fd: fd}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.Copy(p.files, opened)
	switch {
	case p.bundle != nil:
		errs = append(errs, p.send(fds))
	case len(errs) == 0:
		// Not before all are there: it replaces the bundle of a former process.
		errs = append(errs, p.pack())
	}
	return errors.Join(errs...)
}

// send adds descriptors of p.files to the bundle. p.mu is held.
func (p *Pins) send(fds []int) error {
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
	fds := append([]int{p.root}, p.fds()...)
	if err := b.add(fds...); err != nil {
		return errors.Join(err, b.close())
	}
	p.keep(b.holdFD)
	old := p.bundle
	p.bundle = b
	return old.end()
}

// fds returns the descriptors of all pins. p.mu is held.
func (p *Pins) fds() []int {
	fds := make([]int, 0, len(p.files))
	for _, pin := range p.files {
		fds = append(fds, pin.fd)
	}
	return fds
}

// Close closes the pins and the clone of the mount. If nobody else uses the file system,
// it ends. Open opens them again.
func (p *Pins) Close() error {
	p.opening.Lock()
	defer p.opening.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.root < 0 {
		return ErrPinsClosed
	}
	closeAll(p.fds())
	clear(p.files)
	err := errors.Join(p.bundle.end(), unix.Close(p.root))
	p.bundle, p.root = nil, -1
	return err
}

// Pin opens pins for the files that have none yet: those of the tree, and the host's that
// are open. Serve must be running, and the Server have Pins. The error wraps EAGAIN if
// another process has a lease on a file: Pin is to be called again later.
func (s *Server) Pin() error {
	paths := make(map[NodeID]string)
	for _, n := range s.tree.files {
		paths[n.id] = s.tree.path(n)
	}
	s.hostPaths(paths)
	return s.pins.add(paths)
}

// pinReply makes the reply to the OPEN of a pin. Nobody reads from the descriptor: it
// needs no handle.
func pinReply(t *Turn) (int, error) {
	out, size := place[fuse.OpenOut](t.out)
	// NOFLUSH (Linux 5.16): the pins are in a process that starts others, and exec(2) must
	// not wait for this server.
	out.Fh, out.OpenFlags = noHandle, fuse.FOPEN_DIRECT_IO|fuse.FOPEN_NOFLUSH
	return size, nil
}
