// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package seccomptest

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Has32 reports whether programs of i386 run here.
func Has32(testing.TB) bool { return false }

// call32 is for the machines that run programs of i386.
func call32([7]uintptr) (int, unix.Errno) { return -1, unix.ENOSYS }
