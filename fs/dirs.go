// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"encoding/binary"

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

// attrValid returns for how many seconds the attributes of n hold: not at all for a file,
// whose st_size is the caller's own.
func attrValid(n *node) uint64 {
	if n.isDir() {
		return entryValid
	}
	return 0
}

// putAttr fills a with the attributes of n; length is st_size in bytes.
func (s *Server) putAttr(a *fuse.Attr, n *node, length uint64) {
	// The times do not move, or tar(1) says that the file changed while it was read.
	sec, nsec := uint64(s.start.Unix()), uint32(s.start.Nanosecond())
	a.Ino = uint64(n.id)
	a.Size = length
	// A file with fewer blocks than its size needs has holes for cp(1),
	// which then makes a copy of st_size bytes.
	a.Blocks = (length + 511) / 512
	a.Atime, a.Mtime, a.Ctime = sec, sec, sec
	a.Atimensec, a.Mtimensec, a.Ctimensec = nsec, nsec, nsec
	a.Mode = n.mode
	a.Nlink = s.tree.nlink(n)
	if s.hostDir(n.id) != nil {
		a.Nlink = 1 // which find(1) takes for not counted
	}
	a.Blksize = pageSize
}

// placeAttr makes the reply to a GETATTR or SETATTR in out and returns its length in bytes.
func (s *Server) placeAttr(out []byte, n *node, length uint64) int {
	reply, size := place[fuse.AttrOut](out)
	reply.AttrValid = attrValid(n)
	s.putAttr(&reply.Attr, n, length)
	return size
}

// statfs makes the reply to a STATFS.
func (s *Server) statfs(t *Turn) (int, error) {
	out, size := place[fuse.StatfsOut](t.out)
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, maxName
	return size, nil
}

// maxName is the longest name in bytes. A longer one does not exist.
const maxName = 255

// lookup makes the reply to a LOOKUP in a directory of the table.
func (s *Server) lookup(t *Turn) (int, error) {
	n := s.tree.lookup(t.id, t.name)
	switch {
	case n != nil:
		return s.entry(t, n), nil
	case s.hostDir(t.id) != nil:
		return s.lookupHost(t)
	}
	return noEntry(t), nil
}

// noEntry makes the reply to a LOOKUP of a name that does not exist: node id 0,
// which is ENOENT with a time to live.
func noEntry(t *Turn) int {
	out, size := place[fuse.EntryOut](t.out)
	out.EntryValid = negativeValid
	return size
}

// entry makes the reply to a LOOKUP of n.
func (s *Server) entry(t *Turn, n *node) int {
	out, size := place[fuse.EntryOut](t.out)
	out.NodeId = uint64(n.id)
	out.EntryValid = entryValid
	out.AttrValid = attrValid(n)
	// The kernel asks for a file's with GETATTR before it shows this to anyone.
	s.putAttr(&out.Attr, n, pageSize)
	return size
}

// opendir lets the kernel cache the listings of the table. ENOSYS would spare the request,
// but for all directories of the connection (fuse_dir_open, fs/fuse/dir.c), and those of a
// HostTree differ from caller to caller.
func (s *Server) opendir(t *Turn) (int, error) {
	out, size := place[fuse.OpenOut](t.out)
	if s.hostDir(t.id) == nil {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	}
	return size, nil
}

// readdir lists a directory of the table. The offset of an entry is 1 for ".", 2 for "..",
// and the node id and 2 for others, so that a listing goes on when a daemon with a longer
// table takes over.
func (s *Server) readdir(t *Turn) (int, error) {
	dir := t.node
	if s.hostDir(dir.id) != nil {
		return s.readdirHost(t)
	}
	room := t.direntRoom()
	out := t.out[:outHeaderSize]
	out, ok := appendSince(out, room, t.off, 1, dir, ".")
	if ok {
		out, ok = appendSince(out, room, t.off, 2, s.tree.node(dir.parent), "..")
	}
	for _, n := range s.tree.children[dir.id] {
		if !ok {
			break
		}
		out, ok = appendSince(out, room, t.off, uint64(n.id)+2, n, n.name)
	}
	return len(out) - outHeaderSize, nil
}

// direntRoom returns how many bytes of entries the reply to a READDIR has room for.
func (t *Turn) direntRoom() int { return min(t.size, cap(t.out)-outHeaderSize) }

// appendSince is appendDirent for a node, if its offset off comes after since.
func appendSince(out []byte, room int, since, off uint64, n *node, name string) (_ []byte, ok bool) {
	if off <= since {
		return out, true
	}
	return appendDirent(out, room, uint64(n.id), off, n.mode, name)
}

// appendDirent appends a struct fuse_dirent: ino, off, namelen and type, then the name,
// padded to 8 bytes. ok is false if the reply has no room for it.
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
