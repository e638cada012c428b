//go:build !amd64

package seccomptest

import "golang.org/x/sys/unix"

// call32 is for the machines that run programs of i386.
func call32([7]uintptr) (int, unix.Errno) { return -1, unix.ENOSYS }
