// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/internal/procpid"
)

// caller is a thread that waits at a call.
type caller struct {
	tid int
	// valid reports whether it still waits there.
	valid func() bool
	// memory is its /proc/TID/mem, -1 if that is not open yet. It has the memory of the
	// program that made the call, even if the thread id belongs to another thread by now.
	memory int
	owned  bool
}

// errGone says that the thread does not wait any more.
var errGone = errors.New("the caller is gone")

// errPartial says that not all of the memory is there.
var errPartial = errors.New("memory that is not there")

// open opens the memory. Whoever has the id now is the caller if the call is valid
// afterwards.
//
// Memory is written and read through this file: unlike process_vm_writev(2) it does not
// wait for whoever handles the page faults of the container (userfaultfd(2)), which gives
// EIO. It does wait for a file system of the container's own, if the address is in a
// mapping of a file there. The thread is then in uninterruptible sleep, and until that file
// system answers or ends this process cannot end either, not even by SIGKILL (6.18). So a
// process whose end others wait for, as a worker of the daemon, must not write here.
func (c *caller) open() error {
	if c.memory >= 0 {
		return nil
	}
	fd, err := unix.Open("/proc/"+strconv.Itoa(c.tid)+"/mem", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ENOENT, unix.ESRCH:
		return errGone
	default:
		return fmt.Errorf("open the memory of a caller: %w", err)
	}
	c.memory, c.owned = fd, true
	if !c.valid() {
		return errGone
	}
	return nil
}

func (c *caller) close() {
	if c.owned {
		unix.Close(c.memory)
	}
}

// write writes b at an address.
func (c *caller) write(b []byte, addr uint64) error {
	if err := c.open(); err != nil {
		return err
	}
	n, err := unix.Pwrite(c.memory, b, int64(addr))
	return whole(n, len(b), err)
}

// read fills b from an address.
func (c *caller) read(b []byte, addr uint64) error {
	if err := c.open(); err != nil {
		return err
	}
	n, err := unix.Pread(c.memory, b, int64(addr))
	return whole(n, len(b), err)
}

func whole(n, want int, err error) error {
	if err == nil && n != want {
		return errPartial
	}
	return err
}

// ioctlPIDFrom is NS_GET_PID_FROM_PIDNS (Linux 6.11): the id, here, of the thread that has
// the given one in a pid namespace.
const ioctlPIDFrom = 0x8004b706

// thread returns the thread that the caller calls id. It returns false if that cannot be
// told, which before Linux 6.11 is so for all but the caller itself.
func (c *caller) thread(id int) (tid int, ok bool) {
	if id == 0 {
		return c.tid, true
	}
	dir := "/proc/" + strconv.Itoa(c.tid)
	fd, err := unix.Open(dir+"/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlPIDFrom, uintptr(id))
	if e != unix.ENOTTY {
		return int(r), e == 0 && c.valid()
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0, false
	}
	own := 0
	for n := range procpid.StatusIDs(status, "NSpid") {
		own = n // the last one is that of the innermost namespace
	}
	return c.tid, own == id && c.valid()
}
