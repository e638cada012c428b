package initpid

import (
	"encoding/binary"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// helperArg is the argv[0] by which a helper knows what it is.
const helperArg = "vprocfs-init-pid-helper"

// Descriptors of the helper, besides /dev/null as 0 to 2.
const (
	helperNS   = 3 // the namespace to enter
	helperSock = 4 // the socket to answer on
)

// step is what a helper was at when it failed, as it tells in its message.
type step byte

const (
	stepDone step = iota
	stepDumpable
	stepSetns
	stepSigmask
	stepClone
	stepSend
	stepKilled
)

var stepNames = [...]string{"done", "prctl PR_SET_DUMPABLE", "setns", "sigprocmask", "clone", "sendmsg", "child"}

// RunHelper does the work of the fork helper and ends the process, if this
// process was started as one. Call it first thing in main, and in TestMain.
func RunHelper() {
	if len(os.Args) != 1 || os.Args[0] != helperArg {
		return
	}
	if at, num := answerInside(); at != stepDone {
		msg := binary.LittleEndian.AppendUint32([]byte{byte(at)}, num)
		// If nobody listens any more there is nobody to tell.
		_, _ = unix.Write(helperSock, msg)
		unix.Exit(1)
	}
	// Not os.Exit: there is nothing to run at the exit, and in a binary built
	// with the race detector that would sleep for a second.
	unix.Exit(0)
}

// answerInside enters the namespace and has a child answer from there. It
// returns the step that failed and the errno or the signal, or stepDone.
func answerInside() (step, uint32) {
	// First of all: a child of ours is visible in the container. Not dumpable,
	// its /proc/PID/exe, mem and fd are out of reach for the container's root
	// (__ptrace_may_access, kernel/ptrace.c): no handle on our binary or socket.
	// The child inherits it with the memory (mm_init, kernel/fork.c).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return stepDumpable, errnoOf(err)
	}
	// setns and clone count for one thread, and that must not be left.
	runtime.LockOSThread()
	if err := unix.Setns(helperNS, unix.CLONE_NEWPID); err != nil {
		return stepSetns, errnoOf(err)
	}
	hdr := newAnswer()
	// No signal handler of Go's may run in the child: there is no Go runtime there.
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return stepSigmask, errnoOf(err)
	}
	pid, errno := cloneAndSend(hdr)
	runtime.KeepAlive(hdr)
	if errno != 0 {
		return stepClone, uint32(errno)
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(int(pid), &status, unix.WUNTRACED, nil)
		switch {
		case err == nil && status.Stopped():
			// By the container's root, who could keep us waiting so.
			_ = unix.Kill(int(pid), unix.SIGKILL)
			continue
		case err == nil:
			return childEnded(status)
		case err != unix.EINTR:
			// Somebody made us ignore SIGCHLD: the child is reaped already,
			// and if it failed, the end of the file tells.
			return stepDone, 0
		}
	}
}

// childEnded tells how the child ended as answerInside does.
func childEnded(status unix.WaitStatus) (step, uint32) {
	switch {
	case status.Signaled():
		return stepKilled, uint32(status.Signal())
	case status.ExitStatus() != 0:
		return stepSend, uint32(status.ExitStatus())
	}
	return stepDone, 0
}

func errnoOf(err error) uint32 {
	if errno, ok := err.(unix.Errno); ok {
		return uint32(errno)
	}
	return 0
}

// newAnswer is the child's message: stepDone, from pid 1. We need not be pid 1
// to say so, only privileged over the namespace (__scm_send, net/core/scm.c).
func newAnswer() *unix.Msghdr {
	body := []byte{byte(stepDone)}
	oob := unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 0, Gid: 0})
	hdr := &unix.Msghdr{Iov: &unix.Iovec{Base: &body[0]}, Iovlen: 1, Control: &oob[0]}
	hdr.Iov.SetLen(len(body))
	hdr.SetControllen(len(oob))
	return hdr
}

// cloneAndSend clones a child that sends hdr and exits, with the errno of a
// failed send as its status. It returns the child's pid.
//
// The child has one thread, this one, and a copy of a Go runtime whose other
// threads are gone. It must do nothing but system calls: no stack growth, no
// allocation, no lock, no race detector.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func cloneAndSend(hdr *unix.Msghdr) (pid uintptr, errno unix.Errno) {
	flags, stack := uintptr(unix.SIGCHLD), uintptr(0)
	if runtime.GOARCH == "s390x" { // the kernel's order there: CONFIG_CLONE_BACKWARDS2
		flags, stack = stack, flags
	}
	pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, helperSock, uintptr(unsafe.Pointer(hdr)), unix.MSG_NOSIGNAL)
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}
