// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is NGROUPS_MAX (include/uapi/linux/limits.h).
const maxGroups = 65536

// peerGroups returns the supplementary groups of the other end of a socket, which x/sys
// cannot (0.49.0).
func peerGroups(fd int) ([]uint32, error) {
	for n := 64; n <= maxGroups; n *= 2 {
		groups := make([]uint32, n)
		size := uint32(4 * n)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE:
		default:
			return nil, fmt.Errorf("getsockopt SO_PEERGROUPS: %w", errno)
		}
	}
	return nil, fmt.Errorf("getsockopt SO_PEERGROUPS: %w", unix.ERANGE)
}
