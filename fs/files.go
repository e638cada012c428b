// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// open makes the reply to an OPEN of a file.
func (s *Server) open(t *Turn) (int, error) {
	switch {
	case s.pins.isOpening(t.caller):
		return pinReply(t)
	case writes(t.flags) && !s.isWritable(t.id):
		return 0, syscall.EROFS
	case !s.permits(t.node, t.caller, accessOf(t.flags)):
		return 0, syscall.EACCES
	}
	return s.openReply(t)
}

// writes reports whether open(2) with these flags is for writing.
func writes(flags uint32) bool {
	return flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0
}

// accessOf returns the permissions that open(2) with these flags needs.
func accessOf(flags uint32) uint32 {
	switch flags & syscall.O_ACCMODE {
	case syscall.O_RDONLY:
		return unix.R_OK
	case syscall.O_WRONLY:
		return unix.W_OK
	}
	return unix.R_OK | unix.W_OK
}

// openReply makes the reply to an OPEN: a new handle. It returns ENFILE if the
// caller's container has too many.
func (s *Server) openReply(t *Turn) (int, error) {
	fh := uint64(noHandle)
	if t.replayed() {
		fh = s.handles.openedBy(t.unique, t.id)
	}
	if fh == noHandle {
		owner, err := s.openOwner(t)
		if err != nil {
			return 0, err
		}
		if fh, err = s.handles.open(owner, t.id, t.caller, t.unique); err != nil {
			return 0, err
		}
	}
	t.fh = fh
	out, size := place[fuse.OpenOut](t.out)
	out.Fh = fh
	// The content differs from caller to caller, the page cache does not.
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	if s.isWritable(t.id) {
		// The inode is one for all containers: none waits for another's write
		// (Linux 6.2; older kernels do not know the flag).
		out.OpenFlags |= parallelDirectWrites
	}
	return size, nil
}

// openOwner returns whom a new handle of t's caller is accounted to. As long as few are
// open that may be 0: the first text of the handle tells.
func (s *Server) openOwner(t *Turn) (uint64, error) {
	if t.owner != 0 {
		return t.owner, nil
	}
	owner, ok := s.handles.ownerOf(t.caller.PID)
	if ok || !s.handles.isCrowded() {
		return owner, nil
	}
	err := t.Block(0) // which finds the owner
	return t.owner, err
}

// release forgets a handle. Nobody looks at the reply.
func (s *Server) release(t *Turn) (int, error) {
	s.handles.release(t.fh)
	if s.isWritable(t.id) {
		s.triggers.Release(t.fh)
	}
	return 0, nil
}

// read makes the reply to a READ: of kept content, or of new content, which is
// kept.
//
// At offset 0 it is new, as the kernel's is. The caller is resolved then (4 us, nearly all
// of them for statx(2)), and not at OPEN, which may be another's.
func (s *Server) read(t *Turn) (int, error) {
	out, ok, err := s.handles.read(t.out[:outHeaderSize], &t.request)
	if ok {
		t.setOut(out)
		return len(out) - outHeaderSize, err
	}
	content, err := s.makeContent(t)
	if err != nil {
		return 0, err
	}
	owner, err := s.textOwner(t)
	if err != nil {
		return 0, err
	}
	p := part(content, t.off, t.size)
	if err := s.handles.keep(&t.request, owner, content, len(p)); err != nil {
		return 0, err
	}
	return copy(content, p), nil
}

// textOwner returns whom a text of t's caller is accounted to. Until others have begun to
// fill the arena that may be 0, which costs nothing.
func (s *Server) textOwner(t *Turn) (uint64, error) {
	if t.owner != 0 || !s.handles.isFilling() {
		return t.owner, nil
	}
	if owner, ok := s.handles.ownerOf(t.caller.PID); ok {
		return owner, nil
	}
	err := t.Block(0) // which finds the owner
	return t.owner, err
}

// getattr makes the reply to a GETATTR.
func (s *Server) getattr(t *Turn) (int, error) {
	length := t.node.bound
	if !t.node.isDir() {
		n, err := s.contentLength(t)
		if err != nil {
			return 0, err
		}
		// A size of 0 would stop Node and sendfile(2) before the first
		// byte.
		length = uint64(max(n, 1))
	}
	return s.placeAttr(t.out, t.node, length), nil
}

// contentLength returns the length of the content as t.caller sees it.
//
// If the handle is known, the content is kept for the read that follows, so that size and
// content agree. lseek(2) with SEEK_END sends the handle; it must not wait, and gets a bound
// instead, as does a caller with too many requests that wait. fstat(2) sends none
// (fs/fuse/dir.c, fuse_getattr, 5.10 to 6.18), but mostly comes from the thread that has
// just opened the file. A text that somebody is in the middle of reading stays, and has its
// length.
//
// For any other thread, as in Node's pool, a program whose shell has opened the file, or
// stat(2), the content will be another one when it is read, perhaps a longer one, and Node
// reads no more than the size. So the size is a bound, of whole pages, which GNU wc does
// not take for the length.
func (s *Server) contentLength(t *Turn) (int, error) {
	fh := t.fh
	if fh == noHandle {
		fh = s.handles.lastOpened(t.caller.PID, t.node.id)
	}
	if n, ok := s.handles.length(fh, &t.request); ok {
		return n, nil
	}
	if fh == noHandle && t.node.bound != 0 {
		return int(t.node.bound), nil
	}
	content, err := s.makeContent(t)
	switch {
	case t.blockErr != nil:
		return int(t.node.anyBound()), nil
	case err != nil:
		return 0, err
	case fh == noHandle:
		return (len(content) + lengthRoom + pageSize - 1) / pageSize * pageSize, nil
	}
	if owner, err := s.textOwner(t); err == nil {
		s.handles.keepSized(fh, &t.request, owner, content)
	}
	return len(content), nil
}
