// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// moveMountBeneath is MOVE_MOUNT_BENEATH of include/uapi/linux/mount.h, Linux 6.5.
const moveMountBeneath = 0x200

// procRootIno is the inode number of the root of every procfs (PROC_ROOT_INO,
// include/linux/proc_fs.h).
const procRootIno = 1

// place is what the path of a file in a container leads to.
type place struct {
	fd int // O_PATH
	id int // id of its mount
	// bare says that it is the file of procfs or sysfs, with nothing mounted on it. Then
	// the rest is not set.
	bare bool
	dev  [2]uint32
	ino  uint64
}

// Errors that make an optional file Absent.
var (
	errMissing = errors.New("the container has no such file")
	errNoSysfs = errors.New("/sys of the container is not a sysfs")
)

// beneath opens a path below dir with O_PATH, which sends no request for the file
// itself. It follows no symbolic link.
func beneath(dir int, path string, flags, resolve uint64) (int, error) {
	return unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | resolve,
	})
}

// open opens the place of an item.
func (c *container) open(it item) (*place, error) {
	if it.Mount != 0 {
		fd, err := beneath(c.root, strings.TrimPrefix(it.Point, "/"), 0, 0)
		if err != nil {
			return nil, fmt.Errorf("open it in the container: %w", err)
		}
		return newPlace(fd)
	}
	name, rest := split(it.Path)
	dir := c.openBase(name)
	if dir.err != nil {
		return nil, dir.err
	}
	fd, err := beneath(dir.fd, rest, 0, unix.RESOLVE_NO_XDEV)
	switch {
	case err == nil:
		return &place{fd: fd, id: dir.id, bare: true}, nil
	case errors.Is(err, unix.EXDEV): // it is a mount point
		fd, err = beneath(dir.fd, rest, 0, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, errMissing
	}
	if err != nil {
		return nil, fmt.Errorf("open it in the container: %w", err)
	}
	return newPlace(fd)
}

// base is /proc or /sys of the container.
type base struct {
	fd  int // O_PATH
	id  int // of its mount
	err error
}

// openBase opens /proc or /sys of the container, once. The error is set if that is not a
// procfs or sysfs.
func (c *container) openBase(name string) *base {
	b := c.bases[name]
	if b == nil {
		b = new(base)
		b.fd, b.id, b.err = c.findBase(name)
		if c.bases == nil {
			c.bases = make(map[string]*base)
		}
		c.bases[name] = b
	}
	return b
}

// findBase opens /proc or /sys of the container and returns the id of its mount.
func (c *container) findBase(name string) (fd, id int, err error) {
	dir, err := beneath(c.root, name, unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, 0, errMissing
	}
	if err != nil {
		return -1, 0, fmt.Errorf("open /%s in the container: %w", name, err)
	}
	var fs unix.Statfs_t
	var st unix.Statx_t
	err = unix.Fstatfs(dir, &fs)
	if err == nil {
		err = statMount(dir, &st)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("stat /%s in the container: %w", name, err)
	case name == "proc" && (fs.Type != unix.PROC_SUPER_MAGIC || st.Ino != procRootIno):
		err = errors.New("/proc of the container is not a procfs")
	case name == "sys" && fs.Type != unix.SYSFS_MAGIC:
		err = errNoSysfs // many containers have an empty directory there
	}
	if err != nil {
		unix.Close(dir)
		return -1, 0, err
	}
	return dir, int(st.Mnt_id), nil
}

// statMount fills the mount id, superblock and inode number of an O_PATH descriptor. They
// are in the kernel's cache: with STATX_DONT_SYNC a FUSE daemon, which may be dead or
// slow, gets no request.
func statMount(fd int, st *unix.Statx_t) error {
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID|unix.STATX_INO, st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return errNoMountID
	}
	return nil
}

// mountID returns the id of the mount that an O_PATH descriptor is on.
func mountID(fd int) (int, error) {
	var st unix.Statx_t
	err := statMount(fd, &st)
	return int(st.Mnt_id), err
}

// errOccupied is the error of a file that a mount of another program covers.
var errOccupied = errors.New("another mount is there")

var errNoMountID = errors.New("statx tells no mount id: this needs Linux 5.8")

// newPlace returns the place of an O_PATH descriptor, which it owns from now on.
func newPlace(fd int) (*place, error) {
	var st unix.Statx_t
	if err := statMount(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &place{fd: fd, id: int(st.Mnt_id), dev: [2]uint32{st.Dev_major, st.Dev_minor}, ino: st.Ino}, nil
}

func (p *place) close() { unix.Close(p.fd) }

// dead reports whether the place is on a FUSE mount whose connection is aborted. It
// waits while the daemon does not answer: a slow daemon is not dead.
func (p *place) dead() bool {
	var st unix.Statfs_t
	return errors.Is(unix.Fstatfs(p.fd, &st), unix.ENOTCONN)
}

// show attaches detached mount fd at the place of an item. With fd -1 it removes a
// dead mount there, so that the kernel's file shows.
func (c *container) show(fd int, it item, j *job) (State, error) {
	p, err := c.open(it)
	if it.Optional && (err == errMissing || err == errNoSysfs) {
		return Absent, nil
	}
	if it.Mount != 0 && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		return Gone, nil
	}
	if err != nil {
		return "", err
	}
	defer p.close()
	if it.Mount != 0 {
		if p.id != it.Mount || !p.dead() {
			return Gone, nil
		}
		return c.replaceMount(fd, p, it, j)
	}
	if p.bare {
		if err := c.checkLeak(p.id); err != nil {
			return "", err
		}
		if j.DryRun {
			return Attached, nil
		}
		return Attached, moveMount(fd, p.fd, 0)
	}
	file, err := newPlace(fd)
	if err != nil {
		return "", err
	}
	switch {
	case p.dev == file.dev && p.ino == file.ino:
		return Present, nil
	case c.isOurType(p.id) && (j.Replace || p.dead()):
		return c.replaceMount(fd, p, it, j)
	}
	return "", fmt.Errorf("%w, of type %s", errOccupied, c.typeOf(p.id))
}

// replaceMount replaces the mount that p is on by detached mount fd. With fd -1 it
// removes the mount.
func (c *container) replaceMount(fd int, p *place, it item, j *job) (State, error) {
	m, _ := mountOf(c.list, p.id)
	if err := c.checkLeak(m.Parent); err != nil {
		return "", err
	}
	if fd < 0 {
		if j.DryRun {
			return Removed, nil
		}
		return Removed, unmount(p.fd)
	}
	if j.DryRun {
		return Replaced, nil
	}
	// Linux 6.5: mount it beneath the old mount, then unmount that. A reader sees
	// one or the other.
	err := moveMount(fd, p.fd, moveMountBeneath)
	if err == nil {
		return Replaced, unmount(p.fd)
	}
	if !errors.Is(err, unix.EINVAL) {
		return "", err
	}
	// On an older kernel, or with mounts that propagate, the kernel's file shows
	// for a moment.
	if err := unmount(p.fd); err != nil {
		// A nested container cannot lose a mount that it was started with
		// (MNT_LOCKED). Mount over it.
		return Replaced, moveMount(fd, p.fd, 0)
	}
	now, err := c.open(it)
	if err != nil {
		return "", err
	}
	defer now.close()
	return Replaced, moveMount(fd, now.fd, 0)
}

// moveMount attaches detached mount fd at an O_PATH descriptor.
func moveMount(fd, to, flags int) error {
	flags |= unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(fd, "", to, "", flags); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// unmount detaches the mount whose root is fd. The working directory must be
// container.fds.
func unmount(fd int) error {
	if err := unix.Unmount(strconv.Itoa(fd), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount: %w", err)
	}
	return nil
}
