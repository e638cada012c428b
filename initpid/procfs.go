// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// procfs is an open /proc. Paths are looked up below the descriptor, so walks are
// short, and a later mount over /proc changes nothing.
//
// Only PID/ns/pid is looked up, and PID/status if the kernel does not have the ioctl.
// Both take no lock of the target's memory, and the former is a magic link: no path
// that a container controls is followed.
type procfs struct {
	fd  int
	dev nsdev // the device of nsfs
}

type nsdev struct{ major, minor uint32 }

// openProcfs opens the procfs that is mounted at root. It must be one of our own pid
// namespace.
func openProcfs(root string) (*procfs, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	p := &procfs{fd: fd}
	if err := p.check(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	return p, nil
}

func (p *procfs) check() error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(p.fd, &fs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.PROC_SUPER_MAGIC {
		return errors.New("not a procfs")
	}
	var buf [24]byte
	n, err := unix.Readlinkat(p.fd, "self", buf[:])
	if err != nil {
		return fmt.Errorf("readlink self: %w", err)
	}
	if string(buf[:n]) != strconv.Itoa(os.Getpid()) {
		return errors.New("procfs of another pid namespace")
	}
	var st unix.Statx_t
	if err := p.statx(os.Getpid(), &st); err != nil {
		return fmt.Errorf("stat self/ns/pid: %w", err)
	}
	p.dev = nsdev{st.Dev_major, st.Dev_minor}
	return nil
}

func (p *procfs) close() { unix.Close(p.fd) }

// nsPath is the length of the longest PID/ns/pid with its NUL: a sign, 20 digits, 8
// bytes.
const nsPath = 20 + 1 + 8

// appendNSPath appends the path of the pid's namespace, with a NUL at its end.
func appendNSPath(buf []byte, pid int) []byte {
	buf = strconv.AppendInt(buf, int64(pid), 10)
	return append(buf, "/ns/pid\x00"...)
}

// statx is stat(PID/ns/pid) without an allocation: unix.Statx copies the path. Unlike
// fstatat, statx is the same on all architectures.
func (p *procfs) statx(pid int, st *unix.Statx_t) error {
	var buf [nsPath]byte
	path := appendNSPath(buf[:0], pid)
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(p.fd), uintptr(unsafe.Pointer(&path[0])),
		unix.AT_STATX_SYNC_AS_STAT, unix.STATX_INO, uintptr(unsafe.Pointer(st)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// namespace returns the inode number of the pid's pid namespace. It makes one system
// call and no allocation. pid may be the id of any thread.
func (p *procfs) namespace(pid int) (uint64, error) {
	if err := checkPID(pid); err != nil {
		return 0, err
	}
	var st unix.Statx_t
	if err := p.statx(pid, &st); err != nil {
		return 0, p.callerError("stat", pid, err)
	}
	if (nsdev{st.Dev_major, st.Dev_minor}) != p.dev {
		return 0, fmt.Errorf("stat %d/ns/pid: not on nsfs", pid)
	}
	return st.Ino, nil
}

// open opens the pid's pid namespace, and returns its inode number too: the pid may
// have become another process's since the last look-up.
func (p *procfs) open(pid int) (nsfd int, ns uint64, err error) {
	if err := checkPID(pid); err != nil {
		return -1, 0, err
	}
	var buf [nsPath]byte
	path := appendNSPath(buf[:0], pid)
	nsfd, err = unix.Openat(p.fd, string(path[:len(path)-1]), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, p.callerError("open", pid, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(nsfd, &st); err != nil {
		unix.Close(nsfd)
		return -1, 0, fmt.Errorf("fstat %d/ns/pid: %w", pid, err)
	}
	return nsfd, st.Ino, nil
}

func checkPID(pid int) error {
	switch {
	case pid == 0:
		return fmt.Errorf("pid 0: %w", ErrNotVisible)
	case pid < 0:
		return fmt.Errorf("pid %d: %w", pid, ErrCallerGone)
	}
	return nil
}

// callerError returns ErrCallerGone if the caller is gone, and else err.
func (p *procfs) callerError(op string, pid int, err error) error {
	gone := err == unix.ENOENT || err == unix.ESRCH
	if err == unix.EACCES {
		// So is a process that exits between the look-up of the link and the walk
		// through it (proc_ns_get_link, fs/proc/namespaces.c).
		var st unix.Stat_t
		gone = unix.Fstatat(p.fd, strconv.Itoa(pid), &st, 0) != nil
	}
	if gone {
		return fmt.Errorf("%s %d/ns/pid: %w: %w", op, pid, ErrCallerGone, err)
	}
	return fmt.Errorf("%s %d/ns/pid: %w", op, pid, err)
}
