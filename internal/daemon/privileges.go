package daemon

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capSet is a set of capabilities (capabilities(7)), bit N for number N.
type capSet uint64

func caps(numbers ...uint) capSet {
	var s capSet
	for _, n := range numbers {
		s |= 1 << n
	}
	return s
}

func (s capSet) has(n uint) bool { return s>>n&1 != 0 }

// servingCaps are the capabilities that a serving process needs.
func servingCaps() capSet {
	return caps(
		unix.CAP_SYS_PTRACE,   // to follow /proc/PID/ns of processes of other users
		unix.CAP_DAC_OVERRIDE, // cgroups belong to the root of a user namespace, if it may manage them
		unix.CAP_SYS_RESOURCE, // pressure triggers with windows of any length (kernel/sched/psi.c)
		// To mount proc/pressure, to enter pid namespaces where the kernel is older
		// than 6.11, and to unmount in the end.
		unix.CAP_SYS_ADMIN,
	)
}

// dropPrivileges has this process, and all that it will execute, give up every
// capability but those of keep that it has. It can gain none again, nobody
// without CAP_SYS_PTRACE can look into it, and what it creates is its own.
//
// There is no seccomp filter: the unit has one (SystemCallFilter=), whose groups
// systemd keeps up to date. A list of our own would have to foresee the system
// calls of the next Go runtime, and a wrong one would break /proc in every
// container.
func dropPrivileges(keep capSet) error {
	if err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_NO_NEW_PRIVS: %w", err)
	}
	for n := uint(0); ; n++ {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // past the last one of this kernel
		}
		if err != nil {
			return fmt.Errorf("prctl PR_CAPBSET_READ %d: %w", n, err)
		}
		if in == 0 || keep.has(n) {
			continue
		}
		// EPERM: no CAP_SETPCAP. What is executed still gains nothing, by
		// no_new_privs.
		if err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n), 0); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("prctl PR_CAPBSET_DROP %d: %w", n, err)
		}
	}
	if err := setCaps(keep); err != nil {
		return err
	}
	// It counts for the memory, and so for all threads. A container's root that
	// shares the pid namespace has the same uid.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	unix.Umask(0o077)
	return nil
}

// setCaps leaves all threads the permitted and effective capabilities that are in
// keep too, and none to inherit.
func setCaps(keep capSet) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for i := range data {
		left := data[i].Permitted & uint32(keep>>(32*i))
		data[i] = unix.CapUserData{Effective: left, Permitted: left}
	}
	err := onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// priority is the nice value of a daemon (setpriority(2)), and its unit's Nice=.
const priority = -10

// preferUs lets this process, and all that it will start, run before others: one
// container with many busy threads would have all others wait for the daemon to get
// a CPU. With 64 threads that read in a loop, on two CPUs, the 99th percentile of
// another container was 10 to 16 ms without it and 0.3 to 8 ms with it (6.18). It
// needs CAP_SYS_NICE (EACCES).
func preferUs() error {
	nice := priority // a variable, for the conversion
	if err := onAllThreads(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(nice)); err != nil {
		return fmt.Errorf("setpriority %d: %w", priority, err)
	}
	return nil
}

// onAllThreads makes a system call that counts for one thread on each of them.
// Those to come inherit from these. A binary built with cgo cannot (ENOTSUP).
//
//go:uintptrescapes
func onAllThreads(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
