// SPDX-License-Identifier: Apache-2.0

// Package fs serves a tree of generated files over FUSE, on one mount. Files can be read,
// and those of proc/pressure written to and waited for.
//
// It knows the FUSE wire protocol and nothing of what the files say: which there are is the
// caller's table (Node), the content comes from a Source, and what a write starts is for
// Triggers. Mount and MountDetached make a connection (Conn), and a Server answers its
// requests. Below some directories of sysfs there are the host's own files too (HostTree),
// whose node ids are made of their paths.
//
// The files look like those of /proc: their content is made when it is read at offset 0, it
// differs from caller to caller, and the open handle keeps it for the next reads.
//
// Never open a file of the own mount with Go's os package from the process that serves it:
// os registers the descriptor with epoll, the kernel asks the server with FUSE_POLL, and
// the program waits for itself. The raw calls of golang.org/x/sys/unix are safe.
package fs

// Caller is the thread that made a request, as the kernel names it in
// struct fuse_in_header (include/uapi/linux/fuse.h).
type Caller struct {
	// PID is a thread id (not a thread group id) in the pid namespace of the process
	// that mounted, 0 if the caller is not visible there.
	PID int
	// UID and GID are the caller's fsuid and fsgid in the user namespace of the mount,
	// ^uint32(0) if they have no mapping there.
	UID, GID uint32
}

// Source makes the content of files. It must be safe for concurrent use.
type Source interface {
	// Append appends to dst the content of node n as t's caller sees it and
	// returns the extended slice. It keeps neither slice, and it leaves
	// the bytes before len(dst) alone.
	//
	// All requests of the mount stand still while it runs, until it calls t.Block.
	// It must do so before anything slow (fork, wait for a lock that is held during
	// slow work), and return the error of Block if there is one.
	//
	// An error reaches the caller as the syscall.Errno it wraps, else as EIO. A
	// panic is logged, counted, and reaches the caller as EIO; every lock must be
	// released by defer.
	Append(dst []byte, n NodeID, t *Turn) ([]byte, error)
	// Owner returns whom c's requests are accounted to: the outermost container, 0
	// if there is none. It is called for turns that have blocked.
	Owner(c Caller) uint64
}
