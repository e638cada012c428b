// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// hostReaders bounds how many of the host's files are read at the same time. They
// are workers of their own: files that do not answer, as those of a CPU that hangs
// may not, take none from the containers' files. One file is read by one of them
// at a time; other readers of it wait in the queue, until a signal.
const hostReaders = 16

// hostDir returns the tree whose directory is id, nil if there is none.
func (s *Server) hostDir(id NodeID) *HostTree {
	for _, h := range s.hosts {
		if id == h.dir {
			return h
		}
	}
	return nil
}

// isHost reports whether id is that of an entry of the host's.
func (s *Server) isHost(id NodeID) bool { return len(s.hosts) > 0 && id&hostBit != 0 }

// hostEntryOf returns the tree that has the entry t.id, and the entry's path in it.
func (s *Server) hostEntryOf(t *Turn) (h *HostTree, path string, err error) {
	for _, h := range s.hosts {
		if path, ok := h.known(t.id); ok {
			return h, path, nil
		}
	}
	if err := t.Block(0); err != nil {
		return nil, "", err
	}
	return s.findHost(t.id)
}

// findHost is hostEntryOf for those who may take their time.
func (s *Server) findHost(id NodeID) (h *HostTree, path string, err error) {
	for _, h := range s.hosts {
		if path, err = h.find(id); !errors.Is(err, unix.ESTALE) {
			return h, path, err
		}
	}
	return nil, "", unix.ESTALE
}

// shownPath returns the host's entry that t asks for. ENOENT is one that is not there for
// the caller.
//
// All callers share the kernel's cache of names. If a LOOKUP says that a name does not
// exist, the kernel removes it for all callers, with what containers have mounted below
// it. So a LOOKUP finds the name for every caller, and only the requests about the entry
// itself return ENOENT.
func (s *Server) shownPath(t *Turn) (h *HostTree, path string, err error) {
	if h, path, err = s.hostEntryOf(t); err != nil {
		return h, path, err
	}
	hidden, err := s.hides(h, t, path)
	if err == nil && hidden {
		err = syscall.ENOENT
	}
	return h, path, err
}

func (s *Server) hides(h *HostTree, t *Turn, path string) (hidden bool, err error) {
	defer s.recovered(t, &err)
	return h.rules.hides(t, path)
}

func (s *Server) filter(h *HostTree, t *Turn, dir string) (shown func(name string) bool, err error) {
	defer s.recovered(t, &err)
	return h.rules.filter(t, dir)
}

// hostEntry returns the tree, the path and the attributes of the host's entry that t asks
// for.
func (s *Server) hostEntry(t *Turn) (h *HostTree, path string, st unix.Stat_t, err error) {
	if h, path, err = s.shownPath(t); err != nil {
		return h, path, st, err
	}
	st, err = h.statFor(path, t.caller)
	return h, path, st, err
}

// mayHost reports whether t's caller may do what the bits of want say.
func (t *Turn) mayHost(st *unix.Stat_t, want uint32) bool {
	return permits(st.Mode, st.Uid, st.Gid, t.caller, want)
}

func (s *Server) getattrHost(t *Turn) (int, error) {
	_, _, st, err := s.hostEntry(t)
	if err != nil {
		return 0, err
	}
	out, size := place[fuse.AttrOut](t.out)
	putHostAttr(&out.Attr, &st)
	return size, nil
}

func (s *Server) readlinkHost(t *Turn) (int, error) {
	h, path, _, err := s.hostEntry(t)
	if err != nil {
		return 0, err
	}
	text, err := h.readlink(path)
	return copy(t.out[outHeaderSize:cap(t.out)], text), err
}

func (s *Server) accessHost(t *Turn) (int, error) {
	if t.mask&unix.W_OK != 0 {
		return 0, syscall.EROFS
	}
	_, _, st, err := s.hostEntry(t)
	switch {
	case err != nil:
		return 0, err
	case !t.mayHost(&st, t.mask):
		return 0, syscall.EACCES
	}
	return 0, nil
}

func (s *Server) openHost(t *Turn) (int, error) {
	switch {
	case s.pins.isOpening(t.caller):
		return pinReply(t)
	case writes(t.flags):
		return 0, syscall.EROFS
	}
	h, path, st, err := s.hostEntry(t)
	switch {
	case err != nil:
		return 0, err
	case !t.mayHost(&st, unix.R_OK):
		return 0, syscall.EACCES
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, syscall.EINVAL
	}
	return s.openHostPinned(t, s.hostPath(h, path))
}

func (s *Server) opendirHost(t *Turn) (int, error) {
	_, _, st, err := s.hostEntry(t)
	switch {
	case err != nil:
		return 0, err
	case !t.mayHost(&st, unix.R_OK):
		return 0, syscall.EACCES
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return 0, syscall.ENOTDIR
	}
	_, size := place[fuse.OpenOut](t.out)
	return size, nil
}

// putHostAttr fills a with the attributes of the host's entry.
func putHostAttr(a *fuse.Attr, st *unix.Stat_t) {
	a.Ino = st.Ino
	a.Size = uint64(st.Size)
	a.Blocks = (a.Size + 511) / 512 // as putAttr's
	a.Atime, a.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	a.Mtime, a.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	a.Ctime, a.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	a.Mode = st.Mode
	a.Nlink = uint32(st.Nlink)
	a.Owner = fuse.Owner{Uid: st.Uid, Gid: st.Gid}
	a.Blksize = pageSize
}

// lookupHost makes the reply to a LOOKUP in a directory of the host's. Its attributes
// are never valid: a later caller may not see the entry.
func (s *Server) lookupHost(t *Turn) (int, error) {
	name := string(t.name)
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return noEntry(t), nil
	}
	h, dir, err := s.hostEntryOf(t)
	if err != nil {
		return 0, err
	}
	path := join(dir, name)
	st, err := h.stat(path)
	if errors.Is(err, unix.ENOENT) {
		return noEntry(t), nil
	}
	if err != nil {
		return 0, err
	}
	id, err := h.remember(path)
	if err != nil {
		s.log.Error("a file of the host's cannot be shown", "err", err)
		return 0, err
	}
	out, size := place[fuse.EntryOut](t.out)
	out.NodeId = uint64(id)
	out.EntryValid = entryValid
	putHostAttr(&out.Attr, &st)
	return size, nil
}

// readdirHost makes the reply to a READDIR of a directory of the host's. Offsets are
// the host's, so that a listing goes on where it was when another process takes
// over, and when CPUs come into view or leave it.
func (s *Server) readdirHost(t *Turn) (int, error) {
	h, path, err := s.shownPath(t)
	if err != nil {
		return 0, err
	}
	isShown, err := s.filter(h, t, path)
	if err != nil {
		return 0, err
	}
	room := t.direntRoom()
	out := t.out[:outHeaderSize]
	err = h.readDir(path, int64(t.off), func(d dirent) bool {
		switch {
		case d.name == "." || d.name == "..":
			if id := s.dotID(h, path, d.name); id != 0 {
				d.ino = uint64(id)
			}
		case isShown != nil && !isShown(d.name):
			return true
		case path == ".":
			if n := s.tree.lookup(h.dir, []byte(d.name)); n != nil {
				d.ino = uint64(n.id)
			}
		}
		var ok bool
		out, ok = appendDirent(out, room, d.ino, uint64(d.off), d.mode, d.name)
		return ok
	})
	return len(out) - outHeaderSize, err
}

// dotID is the id that "." or ".." in the directory at path has in the node table, 0
// if it has none.
func (s *Server) dotID(h *HostTree, path, name string) NodeID {
	switch {
	case path == "." && name == "..":
		return s.tree.node(h.dir).parent
	case path == ".", name == ".." && !strings.Contains(path, "/"):
		return h.dir
	}
	return 0
}

// readHost appends the content of the host's file that t reads to dst. It always
// blocks: what the host's kernel does for it is not known.
func (s *Server) readHost(dst []byte, t *Turn) ([]byte, error) {
	if err := t.Block(0); err != nil {
		return dst, err
	}
	h, path, err := s.hostEntryOf(t)
	if err != nil {
		return dst, err
	}
	if out, ours, err := h.rules.append(dst, path, t); ours || err != nil {
		return out, err
	}
	// If the rules have delayed the turn, it has no place in the queue any more.
	if err := t.Block(0); err != nil {
		return dst, err
	}
	return h.read(dst, path)
}
