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

// poll makes the reply to a POLL.
func (s *Server) poll(t *Turn) (int, error) {
	if s.triggers == nil {
		return 0, syscall.ENOSYS
	}
	out, size := place[pollOut](t.out)
	out.Revents = s.triggers.Poll(t.fh, t.kh, t.events)
	return size, nil
}

// maxText is how much of a written text is looked at, in bytes: what the kernel
// looks at too (psi_write).
const maxText = 32

// write makes the reply to a WRITE. To find the writer's container may take long.
func (s *Server) write(t *Turn) (int, error) {
	if err := t.Block(t.owner); err != nil {
		return 0, err
	}
	if err := s.triggers.Set(t, t.fh, t.id, []byte(t.text)); err != nil {
		return 0, err
	}
	out, size := place[fuse.WriteOut](t.out)
	out.Size = uint32(t.size)
	return size, nil
}

// setattr makes the reply to a SETATTR. truncate(2), which a shell's > does, and
// utimes(2) change nothing, as with the kernel's own file; modes and owners are
// not the container's to change.
func (s *Server) setattr(t *Turn) (int, error) {
	n := s.tree.node(t.id)
	switch {
	case s.triggers == nil:
		return 0, syscall.EROFS
	case n == nil:
		return 0, syscall.ESTALE
	case n.isDir() || t.valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0:
		return 0, syscall.EPERM
	}
	out, size := place[fuse.AttrOut](t.out)
	out.AttrValid = attrValid(n)
	s.putAttr(&out.Attr, n, n.size)
	return size, nil
}

// change answers the requests that would change the tree. With a read-only
// superblock the kernel refuses them itself.
func (s *Server) change(t *Turn) (int, error) {
	switch {
	case s.triggers == nil:
		return 0, syscall.EROFS
	case t.op == opCreate:
		return 0, syscall.EACCES // what open(2) with O_CREAT gets in /proc
	}
	return 0, syscall.EPERM
}
