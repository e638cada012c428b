// SPDX-License-Identifier: Apache-2.0

// Package syscalls answers system calls of containers that ask the kernel for what a view
// shows in files: sysinfo(2) and sched_getaffinity(2), so that both agree; and
// sched_setaffinity(2), so that a program may give back what it was shown.
//
// On every doubt the kernel carries out the call, and the container sees the host's
// numbers. Nothing here waits for a container but the goroutine of its own listener.
package syscalls

import (
	"runtime"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// kind is a call that is answered.
type kind int

const (
	unknown kind = iota
	sysinfo
	getAffinity
	setAffinity
	numKinds
)

func (k kind) String() string {
	return [numKinds]string{"unknown", "sysinfo", "sched_getaffinity", "sched_setaffinity"}[k]
}

// Calls returns the calls that are answered on this machine, those of its 32-bit programs
// too. Calls of x32 (bit 30 of the number) and of other tables are left to the kernel.
func Calls() []seccomp.Call {
	switch runtime.GOARCH {
	case "amd64":
		return []seccomp.Call{
			{NR: 99, Arch: unix.AUDIT_ARCH_X86_64}, {NR: 204, Arch: unix.AUDIT_ARCH_X86_64}, {NR: 203, Arch: unix.AUDIT_ARCH_X86_64},
			{NR: 116, Arch: unix.AUDIT_ARCH_I386}, {NR: 242, Arch: unix.AUDIT_ARCH_I386}, {NR: 241, Arch: unix.AUDIT_ARCH_I386},
		}
	case "arm64":
		return []seccomp.Call{
			{NR: 179, Arch: unix.AUDIT_ARCH_AARCH64}, {NR: 123, Arch: unix.AUDIT_ARCH_AARCH64}, {NR: 122, Arch: unix.AUDIT_ARCH_AARCH64},
		}
	}
	return nil
}

// kindOf returns what c is, and whether its caller has longs of 32 bits.
func kindOf(c seccomp.Call) (k kind, narrow bool) {
	switch c.Arch {
	case unix.AUDIT_ARCH_X86_64:
		switch c.NR {
		case 99:
			return sysinfo, false
		case 203:
			return setAffinity, false
		case 204:
			return getAffinity, false
		}
	case unix.AUDIT_ARCH_I386:
		switch c.NR {
		case 116:
			return sysinfo, true
		case 241:
			return setAffinity, true
		case 242:
			return getAffinity, true
		}
	case unix.AUDIT_ARCH_AARCH64:
		switch c.NR {
		case 179:
			return sysinfo, false
		case 122:
			return setAffinity, false
		case 123:
			return getAffinity, false
		}
	}
	return unknown, false
}
