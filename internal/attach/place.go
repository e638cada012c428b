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

// place is what is at the path of a file in a container.
type place struct {
	fd   int // O_PATH
	id   int // of the mount that it is on
	dev  [2]uint32
	ino  uint64
	bare bool // the file of procfs or sysfs itself, with nothing mounted on it
}

// What an optional file may be without.
var (
	errMissing = errors.New("the container has no such file")
	errNoSysfs = errors.New("/sys of the container is not a sysfs")
)

// beneath opens a path below dir with O_PATH, which asks nothing of the file
// itself. No symbolic link is followed.
func beneath(dir int, path string, flags, resolve uint64) (int, error) {
	return unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | resolve,
	})
}

// open finds the place of an item.
func (c *container) open(it item) (*place, error) {
	if it.Mount != 0 {
		fd, err := beneath(c.root, strings.TrimPrefix(it.Point, "/"), 0, 0)
		if err != nil {
			return nil, fmt.Errorf("open it in the container: %w", err)
		}
		return newPlace(fd, false)
	}
	base, rest := split(it.Path)
	dir, err := c.openBase(base)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := beneath(dir, rest, 0, unix.RESOLVE_NO_XDEV)
	bare := err == nil
	if errors.Is(err, unix.EXDEV) { // something is mounted on it
		fd, err = beneath(dir, rest, 0, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, errMissing
	}
	if err != nil {
		return nil, fmt.Errorf("open it in the container: %w", err)
	}
	return newPlace(fd, bare)
}

// openBase opens /proc or /sys of the container, and makes sure that it is that.
func (c *container) openBase(base string) (int, error) {
	dir, err := beneath(c.root, base, unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, errMissing
	}
	if err != nil {
		return -1, fmt.Errorf("open /%s in the container: %w", base, err)
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	err = unix.Fstatfs(dir, &fs)
	if err == nil {
		err = unix.Fstat(dir, &st)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("stat /%s in the container: %w", base, err)
	case base == "proc" && (fs.Type != unix.PROC_SUPER_MAGIC || st.Ino != procRootIno):
		err = errors.New("/proc of the container is not a procfs")
	case base == "sys" && fs.Type != unix.SYSFS_MAGIC:
		err = errNoSysfs // an empty directory in many
	}
	if err != nil {
		unix.Close(dir)
		return -1, err
	}
	return dir, nil
}

// newPlace takes fd over.
func newPlace(fd int, bare bool) (*place, error) {
	// Without a request to a FUSE daemon, which may be dead or slow: what the
	// kernel has in its cache is enough to tell one superblock from another.
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID|unix.STATX_INO, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("statx: %w", err)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		unix.Close(fd)
		return nil, errors.New("statx tells no mount id: this needs Linux 5.8")
	}
	return &place{fd: fd, id: int(st.Mnt_id), dev: [2]uint32{st.Dev_major, st.Dev_minor}, ino: st.Ino, bare: bare}, nil
}

func (p *place) close() { unix.Close(p.fd) }

// dead tells whether the place is on a FUSE mount whose connection has been
// aborted. A daemon that is slow, or about to be replaced, holds this up, and its
// mount is not dead. Only the one errno says so.
func (p *place) dead() bool {
	var st unix.Statfs_t
	return errors.Is(unix.Fstatfs(p.fd, &st), unix.ENOTCONN)
}

// show has the container see the file of detached mount fd at the place of the
// item. With an fd of -1 it is to see the kernel's own in the place of a dead one.
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
	file, err := newPlace(fd, false)
	if err != nil {
		return "", err
	}
	switch {
	case p.dev == file.dev && p.ino == file.ino:
		return Present, nil
	case c.isOurType(p.id) && (j.Replace || p.dead()):
		return c.replaceMount(fd, p, it, j)
	}
	return "", fmt.Errorf("another mount is there, of type %s", c.typeOf(p.id))
}

// replaceMount puts detached mount fd in the place of the mount that p is on, or
// nothing for an fd of -1.
func (c *container) replaceMount(fd int, p *place, it item, j *job) (State, error) {
	if err := c.checkLeak(c.mounts[p.id].Parent); err != nil {
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
	// Under the old one first, which then goes: a reader sees the one or the
	// other. Linux 6.5.
	err := moveMount(fd, p.fd, moveMountBeneath)
	if err == nil {
		return Replaced, unmount(p.fd)
	}
	if !errors.Is(err, unix.EINVAL) {
		return "", err
	}
	// An older kernel, or mounts that propagate: for a moment the kernel's own
	// file shows.
	if err := unmount(p.fd); err != nil {
		// A mount that a container of the container was given cannot be taken
		// away from it (MNT_LOCKED). It is covered.
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

// unmount detaches the mount that fd is the root of. The working directory must
// be that of the own descriptors.
func unmount(fd int) error {
	if err := unix.Unmount(strconv.Itoa(fd), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount: %w", err)
	}
	return nil
}
