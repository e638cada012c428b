// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
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

// outcome is the first byte of a helper's message. The text of an error follows, unless
// it is found.
type outcome byte

const (
	found outcome = iota // the message's credentials have the init
	noInit
	notVisible
	childKilled
	failed
)

// outcomeErrors are the errors of the outcomes.
var outcomeErrors = [...]error{noInit: ErrNoInit, notVisible: ErrNotVisible, childKilled: errChildKilled, failed: ErrHelper}

// RunHelper does the work of the fork helper and ends the process, if this process was
// started as one. It must be called first in main, and in TestMain.
func RunHelper() {
	if len(os.Args) != 1 || os.Args[0] != helperArg {
		return
	}
	if what, err := answerInside(); err != nil {
		// The error can be ignored: the receiver is gone.
		_, _ = unix.Write(helperSock, append([]byte{byte(what)}, err.Error()...))
		unix.Exit(1)
	}
	// Not os.Exit: there is nothing to run at exit, and in a binary built with the
	// race detector os.Exit sleeps for a second.
	unix.Exit(0)
}

// answerInside enters the namespace, where a child answers. It returns what went wrong
// with an error.
func answerInside() (outcome, error) {
	// This comes first, because our child is visible in the container. If it is not
	// dumpable, the container's root cannot open its /proc/PID/exe, mem or fd
	// (__ptrace_may_access, kernel/ptrace.c), and so neither our binary nor the
	// socket. The child inherits the setting with the memory (mm_init,
	// kernel/fork.c).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return failed, fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	// setns takes effect for one thread, which must make the clone.
	runtime.LockOSThread()
	if err := unix.Setns(helperNS, unix.CLONE_NEWPID); err != nil {
		what := failed
		if err == unix.EINVAL {
			what = notVisible
		}
		return what, fmt.Errorf("setns: %w", err)
	}
	hdr := newAnswer()
	// No signal handler of Go may run in the child, which has no Go runtime.
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
		return failed, fmt.Errorf("sigprocmask: %w", err)
	}
	pid, errno := cloneAndSend(hdr)
	runtime.KeepAlive(hdr)
	if errno != 0 {
		what := failed
		if errno == unix.ENOMEM { // no pid can be allocated any more (fork(2))
			what = noInit
		}
		return what, fmt.Errorf("clone: %w", errno)
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(int(pid), &status, unix.WUNTRACED, nil)
		switch {
		case err == nil && status.Stopped():
			// The container's root can stop it, and make us wait.
			_ = unix.Kill(int(pid), unix.SIGKILL)
		case err == nil:
			return childEnded(status)
		case err != unix.EINTR:
			// SIGCHLD is ignored, so the child is reaped already. If it failed, the
			// receiver reads the end of the file.
			return found, nil
		}
	}
}

// childEnded returns how the child ended, as answerInside does.
func childEnded(status unix.WaitStatus) (outcome, error) {
	if status.Signaled() {
		return childKilled, errors.New(status.Signal().String())
	}
	switch errno := unix.Errno(status.ExitStatus()); errno {
	case 0:
		return found, nil
	case unix.ESRCH: // no process has pid 1
		return noInit, fmt.Errorf("sendmsg: %w", errno)
	default:
		return failed, fmt.Errorf("sendmsg: %w", errno)
	}
}

// newAnswer returns the child's message: found, from pid 1. The sender need not be
// pid 1, only privileged in the namespace (__scm_send, net/core/scm.c).
func newAnswer() *unix.Msghdr {
	body := []byte{byte(found)}
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
