// SPDX-License-Identifier: Apache-2.0

// Package initpid finds the init of a thread's pid namespace: the process that is
// pid 1 in the namespace, by its pid in our own.
//
// On Linux 6.11 and later, an ioctl on the namespace returns it. On older kernels
// the init is mostly among the parents of the thread (parents.go). If it is not, a
// helper process enters the namespace and lets the kernel translate pid 1 (fork.go).
// All answers are verified in the same way, and a Resolver caches them.
package initpid

import "fmt"

// Method is a way to find an init.
type Method uint8

// Auto to Fork can be configured; Ioctl to Host are how an Init was found.
const (
	Auto    Method = iota // Ioctl where the kernel has it, else Parents
	Ioctl                 // NS_GET_TGID_FROM_PIDNS, Linux 6.11
	Parents               // the caller's parents, any kernel; if configured, Fork if they do not help
	Fork                  // a helper process in the namespace, any kernel
	Cache                 // an earlier answer that is still valid
	Host                  // the caller is in our own namespace
)

var methodNames = [...]string{"auto", "ioctl", "parents", "fork", "cache", "host"}

func (m Method) String() string {
	if int(m) < len(methodNames) {
		return methodNames[m]
	}
	return fmt.Sprintf("method %d", uint8(m))
}

// Set sets m to auto, ioctl, parents or fork. With String and Type, *Method is a
// pflag.Value.
func (m *Method) Set(s string) error {
	for _, may := range []Method{Auto, Ioctl, Parents, Fork} {
		if s == may.String() {
			*m = may
			return nil
		}
	}
	return fmt.Errorf("%q is not one of auto, ioctl, parents, fork", s)
}

// Type is the name of the value in a usage message.
func (*Method) Type() string { return "auto|ioctl|parents|fork" }

// Init is the init of a pid namespace.
type Init struct {
	// PID is the thread group id of the init in our own pid namespace.
	//
	// It is valid as long as the caller that it was resolved for lives: the init
	// of a pid namespace cannot be reaped before all other processes in it are
	// gone (zap_pid_ns_processes, kernel/pid_namespace.c). The caller of a FUSE
	// request lives until the request is answered or interrupted.
	PID int

	// NS is the inode number of the namespace (/proc/PID/ns/pid). The kernel
	// uses the number again after the namespace is gone.
	NS uint64

	// ID is the namespace's id (NS_GET_ID, Linux 6.18), which is never used again.
	// It is 0 on an older kernel.
	ID uint64

	// Owner is the inode number of the outermost pid namespace below our own that
	// the namespace lies in: NS itself for a child of our own, and for our own.
	// What a container makes us do is accounted to its owner.
	Owner uint64

	By Method // not Auto

	// Host is true if the namespace is our own. PID is 1 then.
	Host bool
}
