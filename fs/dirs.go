package fs

import (
	"bytes"
	"encoding/binary"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// entryValid is how long the kernel may keep a name or a fixed
	// attribute, in seconds: a day. Names are constants; a lookup at each
	// open would cost 5 of 37 us (6.18).
	entryValid = 24 * 60 * 60
	// negativeValid is how long, in seconds, it may keep that there is no
	// such name: short, as the next version of the daemon may have it.
	negativeValid = 1
)

// attrValid returns for how many seconds the attributes of n hold: not at all
// where st_size is the caller's own.
func attrValid(n *node) uint64 {
	if n.size == ownLength {
		return 0
	}
	return entryValid
}

// putAttr fills a with the attributes of n; length is st_size in bytes.
func (s *Server) putAttr(a *fuse.Attr, n *node, length uint64) {
	now := time.Now()
	sec, nsec := uint64(now.Unix()), uint32(now.Nanosecond())
	a.Ino = uint64(n.id)
	a.Size = length
	// A file with fewer blocks than its size needs has holes for cp(1),
	// which then makes a copy of st_size bytes.
	a.Blocks = (length + 511) / 512
	a.Atime, a.Mtime, a.Ctime = sec, sec, sec
	a.Atimensec, a.Mtimensec, a.Ctimensec = nsec, nsec, nsec
	a.Mode = n.mode
	a.Nlink = s.tree.nlink(n)
	a.Blksize = pageSize
}

// handleOther answers the requests that never need the Source.
func (s *Server) handleOther(w *worker, h *fuse.InHeader, b []byte) (int, error) {
	switch h.Opcode {
	case opOpen:
		return s.handleOpen(w, h, b)
	case opRelease:
		return 0, s.handleRelease(b)
	case opLookup:
		return s.handleLookup(w, h, b)
	case opOpendir:
		return s.handleOpendir(w, h)
	case opReaddir:
		return s.handleReaddir(w, h, b)
	case opReleasedir, opDestroy:
		return 0, nil
	case opAccess:
		return 0, s.handleAccess(h, b)
	case opStatfs:
		out, size := place[fuse.StatfsOut](w.out[:cap(w.out)])
		out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
		return size, nil
	case opPoll:
		return s.handlePoll(w, b)
	case opSetattr, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opRename2, opLink, opCreate, opTmpfile:
		return s.handleChange(w, h, b)
	case opReadlink:
		return 0, syscall.EINVAL
	case opIoctl:
		return 0, syscall.ENOTTY
	default:
		// FLUSH, LSEEK, STATX, the xattr ones and others:
		// the kernel does without them, and most it never asks again.
		return 0, syscall.ENOSYS
	}
}

func (s *Server) handleLookup(w *worker, h *fuse.InHeader, b []byte) (int, error) {
	dir := s.tree.node(NodeID(h.NodeId))
	if dir == nil {
		return 0, syscall.ESTALE
	}
	n := s.tree.lookup(dir.id, lookupName(b))
	if n == nil {
		return noEntry(w), nil
	}
	return s.entry(w, n), nil
}

// lookupName is the name that a LOOKUP asks for. It points into b.
func lookupName(b []byte) []byte {
	name := b[inHeaderSize:]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	return name
}

// noEntry makes the reply to a LOOKUP of a name that does not exist: node id 0,
// which is ENOENT with a time to live.
func noEntry(w *worker) int {
	out, size := place[fuse.EntryOut](w.out[:cap(w.out)])
	out.EntryValid = negativeValid
	return size
}

// entry makes the reply to a LOOKUP of n.
func (s *Server) entry(w *worker, n *node) int {
	out, size := place[fuse.EntryOut](w.out[:cap(w.out)])
	out.NodeId = uint64(n.id)
	out.EntryValid = entryValid
	out.AttrValid = attrValid(n)
	length := n.size
	if length == ownLength {
		// The kernel asks with GETATTR before it shows this to anyone.
		length = pageSize
	}
	s.putAttr(&out.Attr, n, length)
	return size
}

// handleOpendir lets the kernel cache the listings of the table. It is asked each
// time, since the answer that would spare it that (ENOSYS) is for all directories of
// the connection (fuse_dir_open, fs/fuse/dir.c), and those of a CPUTree differ from
// caller to caller.
func (s *Server) handleOpendir(w *worker, h *fuse.InHeader) (int, error) {
	n := s.tree.node(NodeID(h.NodeId))
	switch {
	case n == nil:
		return 0, syscall.ESTALE
	case !n.isDir():
		return 0, syscall.ENOTDIR
	}
	out, size := place[fuse.OpenOut](w.out[:cap(w.out)])
	if n.id != NodeCPU {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	}
	return size, nil
}

// handleReaddir lists a directory as struct fuse_dirent: ino, off, namelen and
// type, then the name, padded to 8 bytes.
//
// The offset of an entry is 1 for ".", 2 for "..", and the node id and 2 for
// others. So a listing goes on where it was when a daemon with a longer table
// takes over.
func (s *Server) handleReaddir(w *worker, h *fuse.InHeader, b []byte) (int, error) {
	in := decode[fuse.ReadIn](b)
	dir := s.tree.node(NodeID(h.NodeId))
	switch {
	case in == nil:
		return 0, syscall.EIO
	case dir == nil:
		return 0, syscall.ESTALE
	case !dir.isDir():
		return 0, syscall.ENOTDIR
	}
	room := direntRoom(w, in)
	out := w.out[:outHeaderSize]
	out, ok := appendSince(out, room, in.Offset, 1, dir, ".")
	if ok {
		out, ok = appendSince(out, room, in.Offset, 2, s.tree.node(dir.parent), "..")
	}
	for _, n := range s.tree.children[dir.id] {
		if !ok {
			break
		}
		out, ok = appendSince(out, room, in.Offset, uint64(n.id)+2, n, n.name)
	}
	return len(out) - outHeaderSize, nil
}

// direntRoom is how many bytes of entries the reply to a READDIR has room for.
func direntRoom(w *worker, in *fuse.ReadIn) int {
	return min(int(min(in.Size, requestSize)), cap(w.out)-outHeaderSize)
}

// appendSince appends the entry with offset off where it comes after the offset
// since; ok is false where the reply has no room for it.
func appendSince(out []byte, room int, since, off uint64, n *node, name string) (_ []byte, ok bool) {
	if off <= since {
		return out, true
	}
	return appendDirent(out, room, uint64(n.id), off, n.mode, name)
}

// appendDirent appends an entry; ok is false where the reply has no room for it.
func appendDirent(out []byte, room int, ino, off uint64, mode uint32, name string) (_ []byte, ok bool) {
	const fixed = 24
	size := (fixed + len(name) + 7) &^ 7
	if len(out)-outHeaderSize+size > room {
		return out, false
	}
	out = binary.NativeEndian.AppendUint64(out, ino)
	out = binary.NativeEndian.AppendUint64(out, off)
	out = binary.NativeEndian.AppendUint32(out, uint32(len(name)))
	out = binary.NativeEndian.AppendUint32(out, mode>>12)
	out = append(out, name...)
	for range size - fixed - len(name) {
		out = append(out, 0)
	}
	return out, true
}
