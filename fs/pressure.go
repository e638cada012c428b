package fs

import (
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The files of proc/pressure are a mount of their own inside the main one,
// because they are written to and waited for. On a mount that has answered one
// POLL with ENOSYS the kernel never asks again; on one that answers POLL each
// program that puts its files into an epoll set, as Go's do with all of them,
// costs one request more for each open(2). And only on a writable superblock may
// the files be written to, which costs a GETATTR for each fstat(2).

// Tree is the table of nodes that a Server serves.
type Tree int

const (
	// MainTree has all files. What is in it is read-only.
	MainTree Tree = iota
	// PressureTree has the files of proc/pressure in its root. It wants a
	// mount with MountOptions.Writable, and ServerOptions.Triggers.
	PressureTree
)

// Triggers is what stands behind the files of the PressureTree: what is written
// to one makes a trigger, and poll(2) waits for its events. It must be safe for
// concurrent use.
type Triggers interface {
	// Set makes what c has written to node n the trigger of the open file fh.
	// It may take its time. An error reaches the writer as those of Source do.
	// text is not kept.
	Set(fh uint64, n NodeID, c Caller, text []byte) error
	// Poll returns the events, in the numbers of poll(2), that have come for fh
	// since they were last asked for; asked are those of interest. Where kh is
	// not 0 somebody waits for the next: Conn.Wake(kh) is to be called once,
	// when it comes. Poll must not wait.
	Poll(fh, kh uint64, asked uint32) uint32
	// Release ends the trigger of fh, if it has one. It must not wait.
	Release(fh uint64)
}

// addPressure adds the files of proc/pressure below the directory parent.
func addPressure(table []node, parent NodeID, mode uint32) []node {
	return append(table,
		node{NodePressureCPU, parent, "cpu", mode, pageSize},
		node{NodePressureMemory, parent, "memory", mode, pageSize},
		node{NodePressureIO, parent, "io", mode, pageSize},
	)
}

// table returns the nodes that o asks for.
func (o *ServerOptions) table() []node {
	const (
		dir      = syscall.S_IFDIR | 0o555
		file     = syscall.S_IFREG | 0o444
		writable = syscall.S_IFREG | 0o666 // as in Linux 5.16 and later (psi_proc_init)
	)
	if o.Tree == PressureTree {
		return addPressure([]node{{NodeRoot, NodeRoot, "", dir, pageSize}}, NodeRoot, writable)
	}
	table := nodeTable()
	if o.CPUs == nil {
		table = without(table, NodeSys)
	}
	if o.Pressure {
		// The other mount covers the directory. Where a bind mount leaves that
		// one behind, as mount(8) without --rbind does, the files can still be
		// read.
		table = append(table, node{NodePressure, NodeProc, "pressure", dir, pageSize})
		table = addPressure(table, NodePressure, file)
	}
	return table
}

// Wake tells the kernel that the file with the poll handle kh, which a POLL has
// named, is worth another POLL: whoever waits for it is woken. It is no error
// where the file is closed by now, or unmounted.
func (c *Conn) Wake(kh uint64) error {
	// struct fuse_notify_poll_wakeup_out; a message that is no reply has the
	// unique 0 and its code for an error.
	message := struct {
		fuse.OutHeader
		kh uint64
	}{kh: kh}
	message.Length = uint32(unsafe.Sizeof(message))
	message.Status = notifyPoll
	b := unsafe.Slice((*byte)(unsafe.Pointer(&message)), unsafe.Sizeof(message))
	if errno := rawWrite(c.fd, b); errno != 0 && errno != syscall.ENOENT && errno != syscall.ENODEV {
		return errno
	}
	return nil
}

// handlePoll answers a POLL.
func (s *Server) handlePoll(w *worker, b []byte) (int, error) {
	if s.triggers == nil {
		return 0, syscall.ENOSYS
	}
	in := decode[pollIn](b)
	if in == nil {
		return 0, syscall.EIO
	}
	kh := in.Kh
	if in.Flags&fuse.FUSE_POLL_SCHEDULE_NOTIFY == 0 {
		kh = 0
	}
	out, size := place[pollOut](w.out[:cap(w.out)])
	out.Revents = s.triggers.Poll(in.Fh, kh, in.Events)
	return size, nil
}

// handleWrite answers a WRITE, later: to find the writer's container may take
// long.
func (s *Server) handleWrite(w *worker, b []byte) (handedOn bool) {
	h := decode[fuse.InHeader](b)
	in := decode[fuse.WriteIn](b)
	var n *node
	if in != nil {
		n = s.tree.node(NodeID(h.NodeId))
	}
	var err error
	switch {
	case s.triggers == nil:
		err = syscall.EROFS
	case in == nil || int(unsafe.Sizeof(*in))+int(in.Size) > len(b):
		err = syscall.EIO
	case n == nil:
		err = syscall.ESTALE
	case n.isDir():
		err = syscall.EISDIR
	case in.Fh == noHandle:
		err = syscall.ENFILE
	}
	if err != nil {
		s.reply(w, h.Unique, 0, err)
		return false
	}
	text := b[unsafe.Sizeof(*in):][:in.Size]
	return s.answer(w, request{
		unique: h.Unique,
		op:     opWrite,
		id:     n.id,
		node:   n,
		caller: callerOf(h),
		fh:     in.Fh,
		size:   len(text),
		text:   string(text[:min(len(text), maxText)]),
	})
}

// maxText is how much of a written text is looked at, in bytes: what the kernel
// looks at too (psi_write).
const maxText = 32

// write makes the reply to a WRITE.
func (s *Server) write(w *worker, r request, wait bool) (int, error) {
	if !wait {
		return 0, ErrCold
	}
	if err := s.setTrigger(r); err != nil {
		return 0, err
	}
	out, size := place[fuse.WriteOut](w.out[:cap(w.out)])
	out.Size = uint32(r.size)
	return size, nil
}

// setTrigger is Triggers.Set, guarded.
func (s *Server) setTrigger(r request) (err error) {
	defer s.recovered(&r, &err)
	return s.triggers.Set(r.fh, r.id, r.caller, []byte(r.text))
}

// handleSetattr answers a SETATTR. truncate(2), which a shell's > does, and
// utimes(2) change nothing, as with the kernel's own file; modes and owners are
// not the container's to change.
func (s *Server) handleSetattr(w *worker, h *fuse.InHeader, b []byte) (int, error) {
	in := decode[fuse.SetAttrIn](b)
	if in == nil {
		return 0, syscall.EIO
	}
	n := s.tree.node(NodeID(h.NodeId))
	switch {
	case n == nil:
		return 0, syscall.ESTALE
	case n.isDir() || in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0:
		return 0, syscall.EPERM
	}
	out, size := place[fuse.AttrOut](w.out[:cap(w.out)])
	out.AttrValid = attrValid(n)
	s.putAttr(&out.Attr, n, n.size)
	return size, nil
}

// handleChange answers the requests that would change the tree. With a read-only
// superblock the kernel refuses them itself.
func (s *Server) handleChange(w *worker, h *fuse.InHeader, b []byte) (int, error) {
	switch {
	case s.triggers == nil:
		return 0, syscall.EROFS
	case h.Opcode == opSetattr:
		return s.handleSetattr(w, h, b)
	case h.Opcode == opCreate:
		return 0, syscall.EACCES // what open(2) with O_CREAT gets in /proc
	}
	return 0, syscall.EPERM
}
