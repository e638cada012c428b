// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Install gives all threads of this process, and all that they will create and execute, a
// filter that notifies of the calls and allows all others. It returns the listener's
// descriptor, which is closed on exec. The process must have CAP_SYS_ADMIN or no_new_privs.
// Install returns an error that wraps EBUSY if it has a filter with a listener already.
// It needs Linux 5.7, and 5.9 for the end of the process to be noticed.
func Install(calls []Call) (fd int, err error) {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	// With it no signal but a deadly one ends a call once it was received (Linux 5.19).
	fd, err = install(calls, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if err == unix.EINVAL {
		fd, err = install(calls, flags)
	}
	if err != nil {
		return -1, fmt.Errorf("seccomp: %w", err)
	}
	return fd, nil
}

func install(calls []Call, flags uintptr) (int, error) {
	filter := program(calls)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

// Offsets in struct seccomp_data.
const (
	offsetNR   = 0
	offsetArch = 4
)

// program returns a BPF program. It tests one call after another: their numbers alone
// would mean other calls in other tables.
func program(calls []Call) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// skipUnless goes on with the next instruction if what was loaded is k, and leaves
	// out n instructions if not.
	skipUnless := func(k uint32, n uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: n, K: k}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	var p []unix.SockFilter
	for _, c := range calls {
		p = append(p,
			load(offsetNR), skipUnless(uint32(c.NR), 3),
			load(offsetArch), skipUnless(c.Arch, 1),
			ret(unix.SECCOMP_RET_USER_NOTIF),
		)
	}
	return append(p, ret(unix.SECCOMP_RET_ALLOW))
}
