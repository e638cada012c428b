package fs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func callerOf(h *fuse.InHeader) Caller {
	return Caller{PID: int(h.Pid), UID: h.Uid, GID: h.Gid}
}

// handleOpen answers an OPEN of a file.
func (s *Server) handleOpen(w *worker, h *fuse.InHeader, b []byte) (int, error) {
	in := decode[fuse.OpenIn](b)
	if in == nil {
		return 0, syscall.EIO
	}
	n := s.tree.node(NodeID(h.NodeId))
	switch {
	case n == nil:
		return 0, syscall.ESTALE
	case n.isDir():
		return 0, syscall.EISDIR
	case s.pins.isOpening(callerOf(h)):
		return pinReply(w)
	case s.triggers == nil && (in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&syscall.O_TRUNC != 0):
		return 0, syscall.EROFS
	case !n.permits(callerOf(h), unix.R_OK):
		return 0, syscall.EACCES
	}
	return s.openReply(w, n.id, callerOf(h), h.Unique)
}

// openReply makes the reply to the OPEN unique: a new handle. ENFILE says that c's
// container has too many.
func (s *Server) openReply(w *worker, id NodeID, c Caller, unique uint64) (int, error) {
	fh := uint64(noHandle)
	if w.replayed {
		fh = s.handles.openedBy(unique, id)
	}
	if fh == noHandle {
		owner, ok := s.handles.ownerOf(c.PID)
		if !ok && s.owner != nil && s.handles.isCrowded() {
			owner = s.owner(c)
		}
		var err error
		if fh, err = s.handles.open(owner, id, c, unique); err != nil {
			return 0, err
		}
	}
	out, size := place[fuse.OpenOut](w.out[:cap(w.out)])
	out.Fh = fh
	// The content differs from caller to caller, the page cache does not.
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	if s.triggers != nil {
		// The inode is one for all containers: none waits for another's write
		// (Linux 6.2; older kernels do not know the flag).
		out.OpenFlags |= parallelDirectWrites
	}
	return size, nil
}

// handleRelease answers the RELEASE of a file. Nobody looks at the answer.
func (s *Server) handleRelease(b []byte) error {
	in := decode[fuse.ReleaseIn](b)
	if in == nil {
		return syscall.EIO
	}
	s.handles.release(in.Fh)
	if s.triggers != nil {
		s.triggers.Release(in.Fh)
	}
	return nil
}

// handleRead answers a READ of a file, now or later.
func (s *Server) handleRead(w *worker, b []byte) (handedOn bool) {
	h := decode[fuse.InHeader](b)
	in := decode[fuse.ReadIn](b)
	var n *node
	if in != nil {
		n = s.tree.node(NodeID(h.NodeId))
	}
	switch {
	case in == nil:
		s.reply(w, h.Unique, 0, syscall.EIO)
		return false
	case n == nil && !s.isHost(NodeID(h.NodeId)):
		s.reply(w, h.Unique, 0, syscall.ESTALE)
		return false
	case n != nil && n.isDir():
		s.reply(w, h.Unique, 0, syscall.EISDIR)
		return false
	case in.ReadFlags&fuse.READ_LOCKOWNER == 0:
		// This read fills the page cache (sendfile, splice, mmap; Linux
		// 6.5 and later), which all containers share, and read(2) does
		// not. EINVAL makes sendfile(2) and splice(2) fail as on a file
		// that does not support them, and programs fall back to
		// read(2).
		s.reply(w, h.Unique, 0, syscall.EINVAL)
		return false
	}
	s.handles.adopt(in.Fh, NodeID(h.NodeId))
	return s.answer(w, request{
		unique: h.Unique,
		op:     opRead,
		node:   n,
		id:     NodeID(h.NodeId),
		caller: callerOf(h),
		fh:     in.Fh,
		off:    in.Offset,
		size:   int(min(in.Size, maxPages*pageSize)),

		replayed: w.replayed,
	})
}

// read makes the reply to a READ: of kept content, or of new content, which is
// kept.
//
// At offset 0 it is new, as the kernel's is: a handle that stays open is to show what
// is. To answer that from what was kept, too, would save what a pread takes beyond the
// floor (as much again for uptime, thrice as much for meminfo; docs/benchmarks.md). The
// caller is resolved then (4 us, of which statx(2) takes nearly all), and not at OPEN,
// which may be another's: once for open, read, read, close, as the end of the file
// comes from what is kept.
func (s *Server) read(w *worker, r request, wait bool) (int, error) {
	out, ok, err := s.handles.read(w.out[:outHeaderSize], &r)
	if ok {
		w.setOut(out)
		return len(out) - outHeaderSize, err
	}
	content, err := s.makeContent(w, r, wait)
	if err != nil {
		return 0, err
	}
	p := part(content, r.off, r.size)
	if err := s.handles.keep(&r, s.textOwner(r.caller), content, len(p)); err != nil {
		return 0, err
	}
	return copy(content, p), nil
}

// textOwner returns whom a text of c is accounted to. Until others have begun to fill the
// arena that is 0, which costs nothing.
func (s *Server) textOwner(c Caller) uint64 {
	owner, ok := s.handles.ownerOf(c.PID)
	if !ok && s.owner != nil && s.handles.isFilling() {
		owner = s.owner(c)
		s.handles.learn(c.PID, owner)
	}
	return owner
}

// handleGetattr answers a GETATTR, now or later.
func (s *Server) handleGetattr(w *worker, b []byte) (handedOn bool) {
	h := decode[fuse.InHeader](b)
	in := decode[fuse.GetAttrIn](b)
	var n *node
	if in != nil {
		n = s.tree.node(NodeID(h.NodeId))
	}
	switch {
	case in == nil:
		s.reply(w, h.Unique, 0, syscall.EIO)
		return false
	case n == nil:
		s.reply(w, h.Unique, 0, syscall.ESTALE)
		return false
	}
	r := request{unique: h.Unique, op: opGetattr, node: n, id: n.id, caller: callerOf(h), replayed: w.replayed}
	if n.size == ownLength && in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		r.fh = in.Fh()
		s.handles.adopt(r.fh, n.id)
	}
	return s.answer(w, r)
}

// getattr makes the reply to a GETATTR.
func (s *Server) getattr(w *worker, r request, wait bool) (int, error) {
	length := r.node.size
	if length == ownLength {
		n, err := s.contentLength(w, r, wait)
		if err != nil {
			return 0, err
		}
		// A size of 0 would stop Node and sendfile(2) before the first
		// byte.
		length = uint64(max(n, 1))
	}
	out, size := place[fuse.AttrOut](w.out[:cap(w.out)])
	out.AttrValid = attrValid(r.node)
	s.putAttr(&out.Attr, r.node, length)
	return size, nil
}

// contentLength returns the length of the content as r.caller sees it.
//
// The content that it makes is kept for the read that follows where the handle is
// known, so that size and content agree and the work is not done twice. lseek(2)
// with SEEK_END sends the handle. fstat(2) does not (fs/fuse/dir.c, fuse_getattr,
// 5.10 to 6.18), but it mostly comes from the thread that has just opened the
// file. Content that somebody is in the middle of reading stays.
//
// For a thread that opened no such file, as in Node's pool, or a program whose
// shell did, or one that goes by a path, the content will be another one when it is
// read. Its numbers may be longer then, and Node reads as many bytes as it was
// told: the size is a bound, of whole pages, which GNU wc does not take for the
// length.
func (s *Server) contentLength(w *worker, r request, wait bool) (int, error) {
	fh := r.fh
	if fh == noHandle {
		fh = s.handles.lastOpened(r.caller.PID, r.node.id)
	}
	if n, ok := s.handles.length(fh, &r); ok {
		return n, nil
	}
	content, err := s.makeContent(w, r, wait)
	if err != nil {
		return 0, err
	}
	if fh == noHandle {
		return (len(content) + lengthRoom + pageSize - 1) / pageSize * pageSize, nil
	}
	s.handles.keepSized(fh, &r, s.textOwner(r.caller), content)
	return len(content), nil
}
