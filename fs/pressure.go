// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The files that can be written to are those of proc/pressure: what is written makes a
// trigger, and poll(2) waits for its events. All others are read-only as on a read-only
// file system, and always ready. The superblock itself is writable, for all of them.

// Triggers is what stands behind the files that can be written to. It must be safe for
// concurrent use.
type Triggers interface {
	// Set makes what t's caller has written to node n the trigger of the open file
	// fh. t has blocked. An error reaches the writer as those of Source do. text is
	// not kept.
	Set(t *Turn, fh uint64, n NodeID, text []byte) error
	// Poll returns the events, in the numbers of poll(2), that have come for fh
	// since they were last asked for; asked are those of interest. Where kh is
	// not 0 somebody waits for the next: Conn.Wake(kh) is to be called once,
	// when it comes. Poll must not wait.
	Poll(fh, kh uint64, asked uint32) uint32
	// Release ends the trigger of fh, if it has one. It must not wait.
	Release(fh uint64)
}

// Wake tells the kernel that the file with the poll handle kh, which a POLL has
// named, is worth another POLL: whoever waits for it is woken. It is no error
// where the file is closed by now, or unmounted.
func (c *Conn) Wake(kh uint64) error {
	if errno := notify(c, notifyPoll, wakeupOut{kh}); errno != 0 && errno != syscall.ENOENT && errno != syscall.ENODEV {
		return errno
	}
	return nil
}

// isWritable reports whether the node id is a file that can be written to.
func (s *Server) isWritable(id NodeID) bool {
	n := s.tree.node(id)
	return s.triggers != nil && n != nil && n.isWritable()
}

// ready are the events that poll(2) finds on a regular file.
const ready = unix.POLLIN | unix.POLLOUT | unix.EPOLLRDNORM | unix.EPOLLWRNORM

// poll makes the reply to a POLL. Without Triggers it is ENOSYS, after which the kernel
// never asks again, for no file of the connection.
func (s *Server) poll(t *Turn) (int, error) {
	if s.triggers == nil {
		return 0, syscall.ENOSYS
	}
	out, size := place[pollOut](t.out)
	if s.isWritable(t.id) {
		out.Revents = s.triggers.Poll(t.fh, t.kh, t.events)
	} else {
		out.Revents = t.events & ready
	}
	return size, nil
}

// maxText is how much of a written text is looked at, in bytes: what the kernel
// looks at too (psi_write).
const maxText = 32

// decodeWrite accepts a text at any offset and of any length, as the kernel's own file does.
//
// For a write beyond the size of the inode, which all containers share, and one with
// O_APPEND, the kernel holds the inode's lock until the answer (fuse_dio_wr_exclusive_lock,
// fs/fuse/file.c), and the writes of others wait. To refuse such writes does not help: the
// lock is held for the refusal too, while a write that succeeds extends the size, so that
// the next ones take the lock shared.
func decodeWrite(s *Server, t *Turn, b []byte) error {
	in := decode[fuse.WriteIn](b)
	const fixed = int(unsafe.Sizeof(fuse.WriteIn{}))
	switch {
	case in == nil:
		return errShort
	case !s.isWritable(t.id):
		return syscall.EROFS
	case fixed+int(in.Size) > len(b):
		return errShort
	case in.Fh == noHandle:
		return syscall.ENFILE
	}
	text := b[fixed:]
	t.fh, t.off, t.size = in.Fh, in.Offset, int(in.Size)
	t.text = string(text[:min(t.size, maxText)])
	return nil
}

// write makes the reply to a WRITE. To find the writer's container may take long. An owner
// with many threads that write has its share of turns only if it is known before: to find
// it is not part of the turn.
func (s *Server) write(t *Turn) (int, error) {
	owner, _ := s.handles.ownerOf(t.caller.PID)
	if err := t.Block(owner); err != nil {
		return 0, err
	}
	if err := s.triggers.Set(t, t.fh, t.id, []byte(t.text)); err != nil {
		return 0, err
	}
	out, size := place[fuse.WriteOut](t.out)
	out.Size = uint32(t.size)
	return size, nil
}

// setattr makes the reply to a SETATTR. truncate(2), which a shell's > does, and utimes(2)
// change nothing of a file that can be written to, as of the kernel's own; modes and owners
// are not the container's to change.
func (s *Server) setattr(t *Turn) (int, error) {
	switch {
	case !s.isWritable(t.id):
		return 0, syscall.EROFS
	case t.valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0:
		return 0, syscall.EPERM
	}
	return s.placeAttr(t.out, s.tree.node(t.id), pageSize), nil
}
