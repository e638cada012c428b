// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A finder finds the init of the pid namespace nsfd, whose inode number is ns and which
// the thread caller is in. It returns a thread group id in our own pid namespace, which
// must be verified, and how it was found.
type finder func(caller, nsfd int, ns uint64) (pid int, by Method, err error)

// tgidFromPIDNS translates pid 1 of the namespace into our own. The argument is
// passed by value and the pid is the return value, although the request number is
// made with _IOR (fs/nsfs.c, Linux 6.11).
func tgidFromPIDNS(nsfd int) (int, unix.Errno) {
	pid, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(nsfd), unix.NS_GET_TGID_FROM_PIDNS, 1)
	return int(pid), errno
}

// findIoctl is the finder of Method Ioctl. It never blocks.
func findIoctl(_, nsfd int, _ uint64) (int, Method, error) {
	pid, errno := tgidFromPIDNS(nsfd)
	switch errno {
	case 0:
		return pid, Ioctl, nil
	case unix.ESRCH:
		// So is a namespace that is not visible here. But this one was opened
		// through a visible pid, so it is below our own.
		return 0, Ioctl, fmt.Errorf("ioctl NS_GET_TGID_FROM_PIDNS: %w: %w", ErrNoInit, errno)
	}
	return 0, Ioctl, fmt.Errorf("ioctl NS_GET_TGID_FROM_PIDNS: %w", errno)
}

// probeIoctl returns an error if the kernel does not have NS_GET_TGID_FROM_PIDNS. It
// asks for our own namespace. ESRCH is no error: our own init may be dying.
func probeIoctl(nsfd int) error {
	switch _, errno := tgidFromPIDNS(nsfd); errno {
	case 0, unix.ESRCH:
		return nil
	case unix.ENOTTY:
		return fmt.Errorf("ioctl NS_GET_TGID_FROM_PIDNS: %w: needs Linux 6.11 or newer", ErrUnsupported)
	default:
		return fmt.Errorf("ioctl NS_GET_TGID_FROM_PIDNS: %w", errno)
	}
}

// namespaceID returns the id of the namespace, which is never used again, or 0 before
// Linux 6.18.
func namespaceID(nsfd int) uint64 {
	var id uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(nsfd), unix.NS_GET_ID, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return 0
	}
	return id
}

// parent opens the parent of the pid namespace nsfd, and returns its inode number
// too (NS_GET_PARENT, Linux 4.9). It returns EPERM for our own.
func parent(nsfd int) (fd int, ns uint64, err error) {
	up, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(nsfd), unix.NS_GET_PARENT, 0)
	if errno != 0 {
		return -1, 0, fmt.Errorf("ioctl NS_GET_PARENT: %w", errno)
	}
	fd = int(up) // close-on-exec (ns_ioctl, fs/nsfs.c)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("fstat of a pid namespace: %w", err)
	}
	return fd, st.Ino, nil
}

// probePidfd returns an error if the kernel does not have pidfds that can be polled.
func probePidfd(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("pidfd_open: %w: needs Linux 5.3 or newer", ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	unix.Close(fd)
	return nil
}
