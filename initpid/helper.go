package initpid

import (
	"encoding/binary"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// helperArg is the argv[0] of a helper.
const helperArg = "vprocfs-init-pid-helper"

// Descriptors of the helper. 0 to 2 are /dev/null.
const (
	helperNS   = 3 // the namespace to enter
	helperSock = 4 // the socket to answer on
)

// step is a step of a helper's work. Its message has the one that failed.
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

// RunHelper does the work of the fork helper and ends the process, if this process was
// started as one. It must be called first in main, and in TestMain.
func RunHelper() {
	if len(os.Args) != 1 || os.Args[0] != helperArg {
		return
	}
	if at, num := answerInside(); at != stepDone {
		msg := binary.LittleEndian.AppendUint32([]byte{byte(at)}, num)
		// The error can be ignored: the receiver is gone.
		_, _ = unix.Write(helperSock, msg)
		unix.Exit(1)
	}
	// Not os.Exit: there is nothing to run at exit, and in a binary built with the
	// race detector os.Exit sleeps for a second.
	unix.Exit(0)
}

// answerInside enters the namespace, where a child answers. It returns the step that
// failed and the errno or the signal, or stepDone.
func answerInside() (step, uint32) {
	// This comes first, because our child is visible in the container. If it is not
	// dumpable, the container's root cannot open its /proc/PID/exe, mem or fd
	// (__ptrace_may_access, kernel/ptrace.c), and so neither our binary nor the
	// socket. The child inherits the setting with the memory (mm_init,
	// kernel/fork.c).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return stepDumpable, errnoOf(err)
	}
	// setns takes effect for one thread, which must make the clone.
	runtime.LockOSThread()
	if err := unix.Setns(helperNS, unix.CLONE_NEWPID); err != nil {
		return stepSetns, errnoOf(err)
	}
	hdr := newAnswer()
	// No signal handler of Go may run in the child, which has no Go runtime.
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
			// The container's root can stop it, and make us wait.
			_ = unix.Kill(int(pid), unix.SIGKILL)
			continue
		case err == nil:
			return childEnded(status)
		case err != unix.EINTR:
			// SIGCHLD is ignored, so the child is reaped already. If it failed, the
			// receiver reads the end of the file.
			return stepDone, 0
		}
	}
}

// childEnded returns how the child ended, as answerInside does.
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

// newAnswer returns the child's message: stepDone, from pid 1. The sender need not be
// pid 1, only privileged in the namespace (__scm_send, net/core/scm.c).
func newAnswer() *unix.Msghdr {
	body := []byte{byte(stepDone)}
	oob := unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 0, Gid: 0})
	hdr := &unix.Msghdr{Iov: &unix.Iovec{Base: &body[0]}, Iovlen: 1, Control: &oob[0]}
	hdr.Iov.SetLen(len(body))
	hdr.SetControllen(len(oob))
	return hdr
}

// cloneAndSend clones a child that sends hdr and exits. Its exit status is the errno of
// the send. It returns the child's pid.
//
// The child has one thread, and a copy of a Go runtime without its other threads. So it
// makes nothing but system calls: no stack growth, no allocation, no lock, no race
// detector.
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
