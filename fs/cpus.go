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
// at a time, and whoever else wants it waits in the queue, until a signal.
const hostReaders = 16

// isHost says whether id is that of an entry of the host's.
func (s *Server) isHost(id NodeID) bool { return s.cpus != nil && id&hostBit != 0 }

// handleHost answers a request for an entry of the host's or for the directory that
// they are in, now or later. A READ of one is handleRead's.
func (s *Server) handleHost(w *worker, h *fuse.InHeader, b []byte) (handedOn bool) {
	r := request{unique: h.Unique, op: h.Opcode, id: NodeID(h.NodeId), caller: callerOf(h)}
	if n := s.tree.node(r.id); n != nil {
		switch {
		case r.op == opReaddir:
		case r.op == opLookup && s.tree.lookup(n.id, lookupName(b)) == nil:
		default:
			// The directory itself and what the table has in it.
			n, err := s.handleOther(w, h, b)
			s.reply(w, h.Unique, n, err)
			return false
		}
	}
	if err := r.decodeHost(w, b); err != nil {
		s.reply(w, h.Unique, 0, err)
		return false
	}
	return s.answer(w, r)
}

// decodeHost takes out of the request buffer what r.op needs.
func (r *request) decodeHost(w *worker, b []byte) error {
	ok := true
	switch r.op {
	case opLookup:
		r.name = string(lookupName(b))
	case opOpen:
		var in *fuse.OpenIn
		if in = decode[fuse.OpenIn](b); in != nil && (in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&syscall.O_TRUNC != 0) {
			return syscall.EROFS
		}
		ok = in != nil
	case opReaddir:
		var in *fuse.ReadIn
		if in = decode[fuse.ReadIn](b); in != nil {
			r.off, r.size = in.Offset, direntRoom(w, in)
		}
		ok = in != nil
	case opAccess:
		var in *fuse.AccessIn
		if in = decode[fuse.AccessIn](b); in != nil {
			r.mask = in.Mask
		}
		ok = in != nil
	}
	if !ok {
		return syscall.EIO
	}
	return nil
}

// host makes the reply to a request that handleHost has let through.
//
// All callers share the kernel's cache of names, and a name that it learns is
// gone it takes away from all, with what containers have mounted below it. So the
// LOOKUP of a CPU's directory finds it for every caller; that it does not exist is
// the answer to all that can be asked about it.
func (s *Server) host(w *worker, r request, wait bool) (n int, err error) {
	defer s.recovered(&r, &err)
	path, err := s.cpus.path(r.id, wait)
	if err != nil {
		return 0, err
	}
	switch r.op {
	case opLookup:
		return s.lookupHost(w, path, r.name)
	case opReaddir:
		return s.readdirHost(w, path, r, wait)
	}
	st, err := s.cpus.statFor(path, r.caller, wait)
	if err != nil {
		return 0, err
	}
	may := func(want uint32) bool { return permits(st.Mode, st.Uid, st.Gid, r.caller, want) }
	kind := st.Mode & unix.S_IFMT
	switch {
	case r.op == opGetattr:
		out, size := place[fuse.AttrOut](w.out[:cap(w.out)])
		putHostAttr(&out.Attr, &st)
		return size, nil
	case r.op == opReadlink:
		text, err := s.cpus.readlink(path)
		return copy(w.out[outHeaderSize:cap(w.out)], text), err
	case r.op == opAccess && r.mask&unix.W_OK != 0:
		return 0, syscall.EROFS
	case r.op == opAccess && !may(r.mask), r.op == opOpen && !may(unix.R_OK), r.op == opOpendir && !may(unix.R_OK):
		return 0, syscall.EACCES
	case r.op == opOpen && kind != unix.S_IFREG:
		return 0, syscall.EINVAL
	case r.op == opOpen:
		return s.openReply(w, r.id, r.caller, r.unique)
	case r.op == opOpendir && kind != unix.S_IFDIR:
		return 0, syscall.ENOTDIR
	case r.op == opOpendir:
		_, size := place[fuse.OpenOut](w.out[:cap(w.out)])
		return size, nil
	}
	return 0, nil // ACCESS granted
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

// lookupHost makes the reply to a LOOKUP in the directory at path. Its attributes
// are never valid: whoever wants them may have to be told that there are none.
func (s *Server) lookupHost(w *worker, path, name string) (int, error) {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return noEntry(w), nil
	}
	path = join(path, name)
	st, err := s.cpus.stat(path)
	if errors.Is(err, unix.ENOENT) {
		return noEntry(w), nil
	}
	if err != nil {
		return 0, err
	}
	id, err := s.cpus.remember(path)
	if err != nil {
		s.log.Error("a file of the host's cannot be shown", "err", err)
		return 0, err
	}
	out, size := place[fuse.EntryOut](w.out[:cap(w.out)])
	out.NodeId = uint64(id)
	out.EntryValid = entryValid
	putHostAttr(&out.Attr, &st)
	return size, nil
}

// readdirHost makes the reply to a READDIR of the directory at path. Offsets are
// the host's, so that a listing goes on where it was when another process takes
// over, and when CPUs come into view or leave it.
func (s *Server) readdirHost(w *worker, path string, r request, wait bool) (int, error) {
	last, err := s.cpus.last(r.caller, wait)
	if err != nil {
		return 0, err
	}
	if cpuOf(path) > last {
		return 0, syscall.ENOENT
	}
	out := w.out[:outHeaderSize]
	err = s.cpus.readDir(path, int64(r.off), func(d dirent) bool {
		switch {
		case d.name == "." || d.name == "..":
			if id := s.dotID(path, d.name); id != 0 {
				d.ino = uint64(id)
			}
		case path == ".":
			if n := s.tree.lookup(NodeCPU, []byte(d.name)); n != nil {
				d.ino = uint64(n.id)
			}
			if cpuOf(d.name) > last {
				return true
			}
		}
		var ok bool
		out, ok = appendDirent(out, r.size, d.ino, uint64(d.off), d.mode, d.name)
		return ok
	})
	return len(out) - outHeaderSize, err
}

// dotID is the id that "." or ".." in the directory at path has in the node table, 0
// where it has none.
func (s *Server) dotID(path, name string) NodeID {
	switch {
	case path == "." && name == "..":
		return NodeSystem
	case path == ".", name == ".." && !strings.Contains(path, "/"):
		return NodeCPU
	}
	return 0
}

// readHost appends the content of the file of a READ to dst. It always wants to
// wait: what the host's kernel does for it is not known.
func (s *Server) readHost(dst []byte, r request, wait bool) ([]byte, error) {
	if !wait {
		return dst, ErrCold
	}
	path, err := s.cpus.path(r.id, true)
	if err != nil {
		return dst, err
	}
	return s.cpus.read(dst, path)
}
