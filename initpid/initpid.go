// Package initpid finds, for a pid, the init of its pid namespace: the process
// that is pid 1 there, by its pid here.
//
// From Linux 6.11 one ioctl on the namespace tells. On older kernels the init is
// mostly found among the caller's parents (parents.go). Where it is not, a helper
// process enters the namespace and lets the kernel translate pid 1 for it (fork.go).
// All answers are verified the same way, and kept by a Resolver.
package initpid

import "fmt"

// Method is a way to find an init.
type Method uint8

// Auto to Fork can be asked for; Ioctl to Host say how an Init was found.
const (
	Auto    Method = iota // Ioctl where the kernel has it, else Parents
	Ioctl                 // NS_GET_TGID_FROM_PIDNS, Linux 6.11
	Parents               // the caller's parents, any kernel; asked for, Fork where they are of no use
	Fork                  // a helper process in the namespace, any kernel
	Cache                 // an earlier answer that still holds
	Host                  // the caller is in our own namespace: nothing to find
)

var methodNames = [...]string{"auto", "ioctl", "parents", "fork", "cache", "host"}

func (m Method) String() string {
	if int(m) < len(methodNames) {
		return methodNames[m]
	}
	return fmt.Sprintf("method %d", uint8(m))
}

// Set takes auto, ioctl, parents or fork. With String and Type it makes *Method a pflag.Value.
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
	// It stays the init's for as long as the caller it was resolved for lives:
	// the init of a pid namespace cannot be reaped before every other process
	// of it is gone (zap_pid_ns_processes, kernel/pid_namespace.c). A FUSE
	// request's caller lives until it is answered or interrupted.
	PID int

	// NS is the inode number of the namespace (/proc/PID/ns/pid). The kernel
	// uses the number again some time after the namespace is gone.
	NS uint64

	// ID is the namespace's id (NS_GET_ID, Linux 6.18), never used again; 0 on
	// an older kernel.
	ID uint64

	// Owner is the inode number of the outermost pid namespace below our own that
	// the namespace lies in: NS itself for a child of our own, and for our own.
	// What a container makes us do is accounted to its owner.
	Owner uint64

	By Method // not Auto

	// Host is true if the namespace is our own. PID is 1 then, whichever
	// namespace that is.
	Host bool
}
