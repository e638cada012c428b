// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"runtime"

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
		// To mount and unmount, and to enter pid namespaces where the kernel is older
		// than 6.11.
		unix.CAP_SYS_ADMIN,
		unix.CAP_SYS_CHROOT, // to enter mount namespaces, with SYS_ADMIN: setns(2)
	)
}

// caps returns the capabilities of a daemon with these options.
func (o *Options) caps() capSet {
	if o.Syscalls {
		return servingCaps() | caps(unix.CAP_SYS_NICE) // sched_setaffinity(2) for other users
	}
	return servingCaps()
}

// priority is the nice value of a daemon (setpriority(2)), and its unit's Nice=.
//
// Without it one container with many busy threads has all others wait until the
// daemon gets a CPU. With 64 threads that read in a loop, on two CPUs, the 99th
// percentile of another container was 10 to 16 ms without it and 0.3 to 8 ms with it
// (6.18).
const priority = -10

// limitPrivileges leaves this process, and all that it will execute, at most the
// capabilities of keep, and no way to gain others (no_new_privs). It also sets the
// priority, if the process may (CAP_SYS_NICE).
//
// Capabilities belong to a thread, and the Go runtime has several: one thread gives
// up its own and executes the program again, with the same pid, arguments and open
// files. Then limitPrivileges returns at once, as it does in every child process.
// This needs no help of the runtime, which can change all threads only in a program
// built without cgo.
//
// There is no seccomp filter: the unit has one (SystemCallFilter=), whose groups
// systemd keeps up to date. A list of our own would have to foresee the system
// calls of the next Go runtime, and a wrong one would break /proc in every
// container.
func limitPrivileges(keep capSet) error {
	permitted, err := permittedCaps()
	if err != nil {
		return err
	}
	noNew, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("prctl PR_GET_NO_NEW_PRIVS: %w", err)
	}
	if noNew == 1 && permitted&^keep == 0 {
		return nil
	}
	// The thread is never unlocked: if exec fails, it must not run other goroutines.
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, priority) // of this thread; EACCES: as it was
	if err := limitThread(keep); err != nil {
		return err
	}
	if err := unix.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		return fmt.Errorf("execute /proc/self/exe with fewer privileges: %w", err)
	}
	return nil
}

// limitThread limits the calling thread.
func limitThread(keep capSet) error {
	// With it, what root executes gains nothing beyond the permitted set
	// (cap_bprm_creds_from_file, security/commoncap.c).
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_NO_NEW_PRIVS: %w", err)
	}
	for n := uint(0); ; n++ {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if err == unix.EINVAL {
			break // past the last one of this kernel
		}
		if err != nil {
			return fmt.Errorf("prctl PR_CAPBSET_READ %d: %w", n, err)
		}
		if in == 0 || keep.has(n) {
			continue
		}
		// EPERM: no CAP_SETPCAP. The bounding set stays, and is of no use to anybody.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil && err != unix.EPERM {
			return fmt.Errorf("prctl PR_CAPBSET_DROP %d: %w", n, err)
		}
	}
	permitted, err := permittedCaps()
	if err != nil {
		return err
	}
	left := permitted & keep
	var data [2]unix.CapUserData // nothing to inherit
	for i := range data {
		word := uint32(left >> (32 * i))
		data[i].Effective, data[i].Permitted = word, word
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// permittedCaps returns the calling thread's permitted capabilities.
func permittedCaps() (capSet, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return capSet(data[0].Permitted) | capSet(data[1].Permitted)<<32, nil
}

// hideProcess keeps every process without CAP_SYS_PTRACE from looking into this one,
// also a container's root that shares the pid namespace and so has the same uid. What
// this process creates is its own (umask). exec(2) undoes the former, so each process
// of the daemon calls it.
func hideProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	unix.Umask(0o077)
	// The kernel names a process after the file that was executed, which was
	// /proc/self/exe.
	if err := os.WriteFile("/proc/self/comm", []byte("vprocfs"), 0); err != nil {
		return fmt.Errorf("set the name of the process: %w", err)
	}
	return nil
}
