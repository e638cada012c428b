// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// operation is how the requests of one opcode are served: checked, decoded once, and
// executed once.
type operation struct {
	wants kind
	// decode copies what the request asks for from its bytes to t. An error is the
	// answer. nil: there is nothing to copy.
	decode func(s *Server, t *Turn, b []byte) error
	// execute makes the reply in t.out and returns the length of its payload in bytes.
	execute func(s *Server, t *Turn) (int, error)
	// host is execute for an entry of the host's; nil: execute.
	host func(s *Server, t *Turn) (int, error)
}

// kind is what a request is about.
type kind int

const (
	anything   kind = iota
	anyNode         // a node of the table
	aFile           // of the table
	aDirectory      // of the table
)

// numOpcodes is more than the highest opcode of the table.
const numOpcodes = 64

// errNoReply says that the kernel expects no reply.
var errNoReply = errors.New("no reply")

// operations returns the table. An opcode that is not in it is answered ENOSYS: the
// kernel does without it, and most it never asks again. Such are FLUSH, LSEEK, STATX
// and those of extended attributes.
func operations() (ops [numOpcodes]operation) {
	unknown := operation{execute: fail(syscall.ENOSYS)}
	for i := range ops {
		ops[i] = unknown
	}
	// Ids are constants; there is nothing to count.
	forget := operation{execute: fail(errNoReply)}
	done := operation{execute: (*Server).done}
	// As on a read-only file system.
	change := operation{execute: fail(syscall.EROFS)}
	ops[opForget], ops[opBatchForget] = forget, forget
	ops[opReleasedir], ops[opDestroy] = done, done
	for _, op := range []int{opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opRename2, opLink, opCreate, opTmpfile, opSetxattr, opRemovexattr} {
		ops[op] = change
	}
	ops[opLookup] = operation{anyNode, decodeLookup, (*Server).lookup, (*Server).lookupHost}
	ops[opGetattr] = operation{anyNode, with(takeGetattr), (*Server).getattr, (*Server).getattrHost}
	ops[opSetattr] = operation{anything, with(takeSetattr), (*Server).setattr, nil}
	ops[opReadlink] = operation{anything, nil, fail(syscall.EINVAL), (*Server).readlinkHost}
	ops[opOpen] = operation{aFile, with(takeOpen), (*Server).open, (*Server).openHost}
	ops[opRead] = operation{aFile, with(takeRead), (*Server).read, (*Server).read}
	ops[opWrite] = operation{aFile, decodeWrite, (*Server).write, nil}
	ops[opStatfs] = operation{execute: (*Server).statfs}
	ops[opRelease] = operation{decode: with(takeRelease), execute: (*Server).release}
	ops[opOpendir] = operation{aDirectory, nil, (*Server).opendir, (*Server).opendirHost}
	ops[opReaddir] = operation{aDirectory, with(takeReaddir), (*Server).readdir, (*Server).readdirHost}
	ops[opAccess] = operation{anyNode, with(takeAccess), (*Server).access, (*Server).accessHost}
	ops[opInterrupt] = operation{decode: with(takeInterrupt), execute: (*Server).interrupt}
	ops[opIoctl] = operation{execute: fail(syscall.ENOTTY)}
	ops[opPoll] = operation{decode: with(takePoll), execute: (*Server).poll}
	ops[opNotifyReply] = operation{execute: (*Server).notifyReply}
	return ops
}

// fail returns an execute that answers with err.
func fail(err error) func(*Server, *Turn) (int, error) {
	return func(*Server, *Turn) (int, error) { return 0, err }
}

// done answers that all is well.
func (s *Server) done(*Turn) (int, error) { return 0, nil }

// serve executes the request of t and answers it.
func (s *Server) serve(t *Turn) {
	execute, err := s.decode(t)
	s.began(t)
	if err == nil {
		err = s.putAside(t)
	}
	s.execute(t, execute, err)
}

// execute executes a request that was decoded without err, and answers it.
func (s *Server) execute(t *Turn, execute func(*Server, *Turn) (int, error), err error) {
	n := 0
	if err == nil {
		n, err = execute(s, t)
	}
	s.finish(t, n, err)
}

// decode checks the request of t and copies what it asks for to t.
func (s *Server) decode(t *Turn) (execute func(*Server, *Turn) (int, error), err error) {
	b := t.entry.Bytes()
	h := decode[fuse.InHeader](b)
	if h == nil {
		return nil, errNoReply
	}
	t.unique, t.op, t.id, t.caller = h.Unique, h.Opcode, NodeID(h.NodeId), callerOf(h)
	op := &s.operations[0]
	if t.op < numOpcodes {
		op = &s.operations[t.op]
	}
	execute = op.execute
	if s.isHost(t.id) && op.host != nil {
		execute = op.host
	} else if op.wants != anything {
		if t.node, err = s.wanted(op.wants, t.id); err != nil {
			return nil, err
		}
	}
	if op.decode != nil {
		err = op.decode(s, t, b)
	}
	return execute, err
}

// wanted returns the node id, which must be of the kind.
func (s *Server) wanted(k kind, id NodeID) (*node, error) {
	n := s.tree.node(id)
	switch {
	case n == nil:
		return nil, syscall.ESTALE
	case k == aFile && n.isDir():
		return nil, syscall.EISDIR
	case k == aDirectory && !n.isDir():
		return nil, syscall.ENOTDIR
	}
	return n, nil
}

func callerOf(h *fuse.InHeader) Caller {
	return Caller{PID: int(h.Pid), UID: h.Uid, GID: h.Gid}
}

// errShort is the answer to a request that is shorter than its struct.
const errShort = syscall.EIO

// with returns a decode that hands the struct of a request to take.
func with[T wireStruct](take func(s *Server, t *Turn, in *T) error) func(*Server, *Turn, []byte) error {
	return func(s *Server, t *Turn, b []byte) error {
		in := decode[T](b)
		if in == nil {
			return errShort
		}
		return take(s, t, in)
	}
}

func decodeLookup(_ *Server, t *Turn, b []byte) error {
	t.name, _, _ = bytes.Cut(b[inHeaderSize:], []byte{0})
	if t.replayed() {
		// The record may become another request's when a signal ends this one.
		t.name = bytes.Clone(t.name)
	}
	if len(t.name) > maxName {
		return syscall.ENAMETOOLONG
	}
	return nil
}

func takeGetattr(s *Server, t *Turn, in *fuse.GetAttrIn) error {
	if t.node != nil && !t.node.isDir() && in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		// lseek(2) with SEEK_END asks, under the lock of the inode (fuse_file_llseek,
		// fs/fuse/file.c), which all containers share.
		t.fh, t.holdsInode = in.Fh(), true
		s.handles.adopt(t.fh, t.id)
	}
	return nil
}

func takeSetattr(_ *Server, t *Turn, in *fuse.SetAttrIn) error {
	t.valid = in.Valid
	return nil
}

func takeOpen(_ *Server, t *Turn, in *fuse.OpenIn) error {
	t.flags = in.Flags
	return nil
}

func takeRead(s *Server, t *Turn, in *fuse.ReadIn) error {
	if in.ReadFlags&fuse.READ_LOCKOWNER == 0 {
		// This read fills the page cache (sendfile, splice, mmap; Linux 6.5 and
		// later), which all containers share, and read(2) does not. EINVAL makes
		// sendfile(2) and splice(2) fail as on a file that does not support them,
		// and programs fall back to read(2).
		return syscall.EINVAL
	}
	t.fh, t.off, t.size = in.Fh, in.Offset, int(min(in.Size, maxPages*pageSize))
	s.handles.adopt(t.fh, t.id)
	return nil
}

func takeRelease(_ *Server, t *Turn, in *fuse.ReleaseIn) error {
	t.fh = in.Fh
	return nil
}

func takeReaddir(_ *Server, t *Turn, in *fuse.ReadIn) error {
	t.off, t.size = in.Offset, int(min(in.Size, requestSize))
	return nil
}

func takeAccess(_ *Server, t *Turn, in *fuse.AccessIn) error {
	t.mask = in.Mask
	return nil
}

func takeInterrupt(_ *Server, t *Turn, in *fuse.InterruptIn) error {
	t.interrupted = in.Unique
	return nil
}

func takePoll(_ *Server, t *Turn, in *pollIn) error {
	t.fh, t.events = in.Fh, in.Events
	if in.Flags&fuse.FUSE_POLL_SCHEDULE_NOTIFY != 0 {
		t.kh = in.Kh
	}
	return nil
}
