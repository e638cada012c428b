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

// isCPUDir reports whether id is the directory that the host's entries are in.
func (s *Server) isCPUDir(id NodeID) bool { return s.cpus != nil && id == s.cpus.dir }

// isHost reports whether id is that of an entry of the host's.
func (s *Server) isHost(id NodeID) bool { return s.cpus != nil && id&hostBit != 0 }

// shownPath returns the path of the host's entry that t asks for. ENOENT is one that is
// not there for the caller: one of a CPU that the caller cannot have, or one that a CPU
// that is off for the caller does not have.
//
// All callers share the kernel's cache of names, and a name that it learns is
// gone it takes away from all, with what containers have mounted below it. So the
// LOOKUP of a CPU's directory finds it for every caller; that it does not exist is
// the answer to all that can be asked about it.
func (s *Server) shownPath(t *Turn) (string, error) {
	path, err := s.cpus.path(t.id, t)
	if err != nil {
		return path, err
	}
	cpu, below := cpuOf(path)
	if cpu > 0 { // each caller has CPU 0 in the range of its CPUs
		if last, err := s.lastCPU(t); err != nil {
			return path, err
		} else if cpu > last {
			return path, syscall.ENOENT
		}
	}
	if cpu >= 0 && ofOnlineCPU(below) {
		if off, err := s.cpuOffline(t, cpu); err != nil {
			return path, err
		} else if off {
			return path, syscall.ENOENT
		}
	}
	return path, nil
}

// hostEntry returns the path and the attributes of the host's entry that t asks for.
func (s *Server) hostEntry(t *Turn) (path string, st unix.Stat_t, err error) {
	if path, err = s.shownPath(t); err != nil {
		return path, st, err
	}
	st, err = s.cpus.statFor(path, t.caller)
	return path, st, err
}

// mayHost reports whether t's caller may do what the bits of want say.
func (t *Turn) mayHost(st *unix.Stat_t, want uint32) bool {
	return permits(st.Mode, st.Uid, st.Gid, t.caller, want)
}

func (s *Server) getattrHost(t *Turn) (int, error) {
	_, st, err := s.hostEntry(t)
	if err != nil {
		return 0, err
	}
	out, size := place[fuse.AttrOut](t.out)
	putHostAttr(&out.Attr, &st)
	return size, nil
}

func (s *Server) readlinkHost(t *Turn) (int, error) {
	path, _, err := s.hostEntry(t)
	if err != nil {
		return 0, err
	}
	text, err := s.cpus.readlink(path)
	return copy(t.out[outHeaderSize:cap(t.out)], text), err
}

func (s *Server) accessHost(t *Turn) (int, error) {
	if t.mask&unix.W_OK != 0 {
		return 0, syscall.EROFS
	}
	_, st, err := s.hostEntry(t)
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
	path, st, err := s.hostEntry(t)
	switch {
	case err != nil:
		return 0, err
	case !t.mayHost(&st, unix.R_OK):
		return 0, syscall.EACCES
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, syscall.EINVAL
	}
	return s.openHostPinned(t, path)
}

func (s *Server) opendirHost(t *Turn) (int, error) {
	_, st, err := s.hostEntry(t)
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
	dir, err := s.cpus.path(t.id, t)
	if err != nil {
		return 0, err
	}
	path := join(dir, name)
	st, err := s.cpus.stat(path)
	if errors.Is(err, unix.ENOENT) {
		return noEntry(t), nil
	}
	if err != nil {
		return 0, err
	}
	id, err := s.cpus.remember(path)
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
	path, err := s.shownPath(t)
	if err != nil {
		return 0, err
	}
	last, off := 0, false
	if cpu, below := cpuOf(path); path == "." {
		last, err = s.lastCPU(t)
	} else if cpu >= 0 && below == "" {
		off, err = s.cpuOffline(t, cpu)
	}
	if err != nil {
		return 0, err
	}
	room := t.direntRoom()
	out := t.out[:outHeaderSize]
	err = s.cpus.readDir(path, int64(t.off), func(d dirent) bool {
		switch {
		case d.name == "." || d.name == "..":
			if id := s.dotID(path, d.name); id != 0 {
				d.ino = uint64(id)
			}
		case path == ".":
			if n := s.tree.lookup(s.cpus.dir, []byte(d.name)); n != nil {
				d.ino = uint64(n.id)
			}
			if cpu, _ := cpuOf(d.name); cpu > last {
				return true
			}
		case off && ofOnlineCPU(d.name):
			return true
		}
		var ok bool
		out, ok = appendDirent(out, room, d.ino, uint64(d.off), d.mode, d.name)
		return ok
	})
	return len(out) - outHeaderSize, err
}

// dotID is the id that "." or ".." in the directory at path has in the node table, 0
// if it has none.
func (s *Server) dotID(path, name string) NodeID {
	switch {
	case path == "." && name == "..":
		return s.tree.node(s.cpus.dir).parent
	case path == ".", name == ".." && !strings.Contains(path, "/"):
		return s.cpus.dir
	}
	return 0
}

// readHost appends the content of the host's file that t reads to dst. It always
// blocks: what the host's kernel does for it is not known.
func (s *Server) readHost(dst []byte, t *Turn) ([]byte, error) {
	if err := t.Block(0); err != nil {
		return dst, err
	}
	path, err := s.cpus.path(t.id, t)
	if err != nil {
		return dst, err
	}
	if cpu, below := cpuOf(path); cpu >= 0 && below == "online" {
		if off, err := s.cpuOffline(t, cpu); err != nil {
			return dst, err
		} else if off {
			return append(dst, "0\n"...), nil
		}
	}
	return s.cpus.read(dst, path)
}
