// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unknownUser is the UID of callers on a connection that has FUSE_ALLOW_IDMAP: the kernel
// does not say who they are (FUSE_INVALID_UIDGID in include/uapi/linux/fuse.h). On others
// it refuses a request whose user has no mapping (EOVERFLOW, fs/fuse/dev.c).
const unknownUser = 1<<32 - 1

// permits reports whether a file with these attributes lets c do what the bits of
// want, as those of access(2), say. The kernel does not check it: the mount has
// allow_other and no default_permissions, which would check it against attributes
// that are cached across containers. The caller's supplementary groups are not
// known here and count as other, and its capabilities as those that user 0 has.
// An unknown user counts as other.
func permits(mode, uid, gid uint32, c Caller, want uint32) bool {
	switch {
	case c.UID == 0:
		// Root may do what anybody may, as it is in sysfs for reading
		// (KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK), and enter any directory.
		if mode&syscall.S_IFMT == syscall.S_IFDIR {
			return true
		}
		mode |= mode>>3 | mode>>6
	case c.UID == uid:
		mode >>= 6
	case c.GID == gid:
		mode >>= 3
	}
	return mode&want == want
}

// permits reports whether the permission bits of n let c do what want says. With
// ServerOptions.IDMap the kernel has checked them: permits refuses an unknown user only
// what it refuses root. Files of the host get no such trust. In an idmapped mount the root
// of a container's user namespace passes for their owner, which it is not on the host.
func (s *Server) permits(n *node, c Caller, want uint32) bool {
	if s.idmap && c.UID == unknownUser {
		c.UID = 0
	}
	return n.permits(c, want)
}

// permits reports whether the permission bits of n let c do what want says.
func (n *node) permits(c Caller, want uint32) bool { return permits(n.mode, 0, 0, c, want) }

// access makes the reply to the ACCESS of access(2) and chdir(2). It is asked before
// no other system call.
func (s *Server) access(t *Turn) (int, error) {
	switch {
	case t.mask&unix.W_OK != 0 && !s.isWritable(t.id):
		return 0, syscall.EROFS
	case !s.permits(t.node, t.caller, t.mask):
		return 0, syscall.EACCES
	}
	return 0, nil
}
