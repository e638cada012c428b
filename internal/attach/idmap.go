// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// errNoIDMap is returned if the mount of the daemon cannot be idmapped.
var errNoIDMap = errors.New("the daemon allows no idmapped mounts: it needs `vprocfs serve --idmap` and Linux 6.12")

// openUserNamespace opens the user namespace of process pid. It returns -1 if this
// process is in the same one, for then users need no mapping.
func openUserNamespace(pid int) (int, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat(hostProc+"/self/ns/user", &ours); err != nil {
		return -1, fmt.Errorf("stat the own user namespace: %w", err)
	}
	fd, err := unix.Open(hostProc+"/"+strconv.Itoa(pid)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, gone(err)
	}
	if err := unix.Fstat(fd, &theirs); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("stat the user namespace: %w", err)
	}
	if ours.Ino == theirs.Ino && ours.Dev == theirs.Dev {
		unix.Close(fd)
		return -1, nil
	}
	return fd, nil
}

// idmap has a detached mount show owners as the user namespace maps them: uid 0 of the
// file system is uid 0 there.
func idmap(mount, users int) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users)}
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return errNoIDMap
	}
	return fmt.Errorf("idmap the mount: %w", err)
}
