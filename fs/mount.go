// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors of Mount beside the plain errnos, which are there for errors.Is too:
// ENOENT (the directory is missing), ENOTDIR, EPERM and EACCES.
var (
	// ErrNoFUSE says that this kernel, or this container, has no FUSE.
	ErrNoFUSE = errors.New("no fuse: /dev/fuse or the fuse file system is missing")
	// ErrMounted says that something else is mounted on the directory.
	ErrMounted = errors.New("something is already mounted there")
	// ErrMountHung says that a mount of the same type is there and does not answer.
	ErrMountHung = errors.New("a mount that does not answer is already there")
	// ErrNoIDMap says that this kernel has no idmapped mounts of FUSE.
	ErrNoIDMap = errors.New("idmapped mounts of FUSE need Linux 6.12")
)

const devFuse = "/dev/fuse"

// MountOptions names a mount. The zero value is ready for use.
type MountOptions struct {
	// Name is the subtype: the file system type is fuse.<Name>, by which
	// mount(8), findmnt(8) and this package know its own mounts. Default
	// "vprocfs".
	Name string
	// FSName is the source of the mount, the first column of /proc/mounts.
	// Default Name.
	FSName string
	// IDMap allows idmapped mounts of it (mount_setattr(2)). The kernel then checks the
	// permission bits, which costs a GETATTR at each open, and does not tell the user ids
	// of callers (Linux 6.12).
	IDMap bool
}

func (o MountOptions) withDefaults() MountOptions {
	if o.Name == "" {
		o.Name = "vprocfs"
	}
	if o.FSName == "" {
		o.FSName = o.Name
	}
	return o
}

func (o MountOptions) fsType() string { return "fuse." + o.Name }

// mountParam is one option of the fuse file system; value is empty for a flag.
type mountParam struct{ key, value string }

// mountParams returns the options of fs/fuse/inode.c (fuse_fs_parameters) that a
// mount served from fd has.
func mountParams(fd int, o MountOptions) []mountParam {
	params := []mountParam{
		{"fd", fmt.Sprint(fd)},
		// The type bits of the root, in octal: a directory.
		{"rootmode", "40000"},
		// Whom the kernel would let in without allow_other. It insists on
		// both.
		{"user_id", "0"},
		{"group_id", "0"},
		// Containers run under other uids and in other user namespaces.
		{"allow_other", ""},
	}
	if o.IDMap {
		// The kernel insists on it (process_init_reply in fs/fuse/inode.c).
		params = append(params, mountParam{"default_permissions", ""})
	}
	return params
}

// Mount mounts on the directory dir and does the handshake. Nothing is answered until a
// Server serves the Conn. The kernel reports callers by their pids in the pid namespace of
// the process that calls Mount. It needs CAP_SYS_ADMIN.
//
// A mount of the same type whose daemon is dead is replaced. Mount returns ErrMounted for
// a live one and a mount of any other type, and ErrMountHung for one that does not answer.
func Mount(dir string, o MountOptions) (*Conn, error) {
	o = o.withDefaults()
	target, err := clearMountPoint(dir, o.fsType())
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	fd, err := openDev()
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	var data []string
	for _, p := range mountParams(fd, o) {
		data = append(data, strings.TrimSuffix(p.key+"="+p.value, "="))
	}
	// There are no devices, no set-uid files, no programs. It is not MS_RDONLY: the
	// files of proc/pressure can be written to, and the Server refuses all else.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(o.FSName, target, o.fsType(), flags, strings.Join(data, ",")); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount %s: %w", dir, noFUSE(err))
	}
	c, err := handshake(fd, o.IDMap)
	if err != nil {
		_ = unix.Unmount(target, unix.MNT_DETACH) // the other error is to be reported
		unix.Close(fd)
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	return c, nil
}

// MountDetached makes a mount that is attached nowhere and does the handshake. mountfd is
// its root: move_mount(2) with MOVE_MOUNT_F_EMPTY_PATH attaches it, in the mount namespace
// of the calling thread. If mountfd is closed before, the mount is gone. It needs Linux 5.2
// and CAP_SYS_ADMIN.
func MountDetached(o MountOptions) (conn *Conn, mountfd int, err error) {
	o = o.withDefaults()
	fd, err := openDev()
	if err != nil {
		return nil, -1, fmt.Errorf("mount detached: %w", err)
	}
	mountfd, err = detachedMount(fd, o)
	if err != nil {
		unix.Close(fd)
		return nil, -1, fmt.Errorf("mount detached: %w", noFUSE(err))
	}
	conn, err = handshake(fd, o.IDMap)
	if err != nil {
		unix.Close(mountfd)
		unix.Close(fd)
		return nil, -1, fmt.Errorf("mount detached: %w", err)
	}
	return conn, mountfd, nil
}

// Remount makes another mount, attached nowhere, of the connection fd, which must be
// one that is mounted somewhere: it has the same files, device number and server. It
// needs Linux 5.15; EINVAL is the answer of an older one.
func Remount(fd int, o MountOptions) (mountfd int, err error) {
	mountfd, err = detachedMount(fd, o.withDefaults())
	if err != nil {
		return -1, fmt.Errorf("mount again: %w", err)
	}
	return mountfd, nil
}

// Clone makes a mount, attached nowhere, of the file system dev that is mounted at dir,
// a path without symbolic links. It propagates nothing to or from dir. It asks nothing of
// the file system. It needs Linux 5.2.
func Clone(dir string, dev uint64) (mountfd int, err error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree %s: %w", dir, err)
	}
	if err := checkClone(fd, dev); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("clone the mount of %s: %w", dir, err)
	}
	return fd, nil
}

// checkClone makes the mount fd private, and makes sure that it is one of dev.
func checkClone(fd int, dev uint64) error {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	if unix.Mkdev(st.Dev_major, st.Dev_minor) != dev {
		return ErrMounted
	}
	err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		err = unix.Mount("", "/proc/self/fd/"+strconv.Itoa(fd), "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("make it private: %w", err)
	}
	return nil
}

// detachedMount makes the same mount as Mount.
func detachedMount(fd int, o MountOptions) (int, error) {
	fsfd, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err == unix.ENOSYS {
		return -1, fmt.Errorf("fsopen needs Linux 5.2: %w", err)
	}
	if err != nil {
		return -1, fmt.Errorf("fsopen fuse: %w", err)
	}
	defer unix.Close(fsfd)
	params := append(mountParams(fd, o), mountParam{"source", o.FSName}, mountParam{"subtype", o.Name})
	const attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	for _, p := range params {
		if p.value == "" {
			err = unix.FsconfigSetFlag(fsfd, p.key)
		} else {
			err = unix.FsconfigSetString(fsfd, p.key, p.value)
		}
		if err != nil {
			return -1, fmt.Errorf("fsconfig %s: %w", p.key, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, fmt.Errorf("fsconfig create: %w", err)
	}
	mountfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mountfd, nil
}

// Unmount detaches the mount on dir (MNT_DETACH): no new path leads to it, and it
// ends when its last user does (an open file, a bind mount of one of its files).
// Serve returns then.
func Unmount(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// openDev opens /dev/fuse for blocking reads: one parked read(2) costs half of
// what epoll does (24 against 42 us for open, read, read, close; 6.18).
func openDev() (int, error) {
	fd, err := unix.Open(devFuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", devFuse, noFUSE(err))
	}
	return fd, nil
}

// noFUSE wraps the errnos that mean there is no driver: of open(2) ENOENT, ENXIO
// and ENODEV, of mount(2) and fsopen(2) ENODEV.
func noFUSE(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w (%w)", ErrNoFUSE, err)
	}
	return err
}
