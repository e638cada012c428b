// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// entry is the cached outcome for a namespace, an init or a failure. With its two
// descriptors a hit is certain and costs one stat:
//
//   - While nsfd is open, its nsfs inode keeps the namespace, and the kernel does
//     not use the namespace's inode number again (destroy_pid_namespace,
//     kernel/pid_namespace.c). So a caller with this inode number is in this
//     namespace.
//   - A namespace never gets another init: when pid 1 is dying, no pid can be
//     allocated in it any more (PIDNS_ADDING, kernel/pid.c). If a thread of the
//     init calls exec (de_thread, fs/exec.c), or its first thread exits
//     (find_child_reaper, kernel/exit.c), the thread group stays, and PID is its
//     id.
//   - The init is not reaped, and its pidfd not readable, before all other
//     processes of the namespace are reaped (zap_pid_ns_processes). So while the
//     caller lives, the pid is the init's, and a hit need not check. The pidfd
//     reports the end: see watcher.
//
// The tests check each of these on the running kernel.
//
// A failure has an nsfd too. Without it, a new namespace could get the inode number,
// and the failure of the old one.
type entry struct {
	init  Init
	nsfd  int
	pidfd int         // of the init; -1 for a failure
	dead  atomic.Bool // the init has died
	watch uint64      // the watcher's number for this entry
}

// close closes the descriptors. Only the cache's Evicted and a fill use them, and
// never at the same time (cache.Cache).
func (e *entry) close() {
	unix.Close(e.nsfd)
	if e.pidfd >= 0 {
		unix.Close(e.pidfd)
	}
}

// errRecycled is returned if a pid is not in the namespace that it should be in.
var errRecycled = errors.New("pid is of another namespace")

// verify returns a pidfd of pid if that is a living process of namespace ns. It
// returns errRecycled if the init should be looked for again.
//
// A process of ns must be the init: pid was the init's when it was found, and if the
// init had died since, no process would be left in ns.
func (p *procfs) verify(pid int, ns uint64) (pidfd int, err error) {
	pidfd, err = unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return -1, errRecycled
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	if err := p.reverify(pidfd, pid, ns); err != nil {
		unix.Close(pidfd)
		return -1, err
	}
	return pidfd, nil
}

// reverify is verify for a pidfd that is open already.
func (p *procfs) reverify(pidfd, pid int, ns uint64) error {
	got, err := p.namespace(pid)
	if err != nil && !errors.Is(err, ErrCallerGone) {
		return err
	}
	// This comes last: if the process lives now, it had the pid above.
	dead, perr := exited(pidfd)
	switch {
	case perr != nil:
		return perr
	case err != nil || got != ns:
		return errRecycled
	case dead:
		return fmt.Errorf("process %d: %w", pid, ErrNoInit)
	}
	return nil
}

// exited reports whether the process has ended: all its threads are gone or zombies.
// It has not if only its first thread has ended.
func exited(pidfd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("poll pidfd: %w", err)
		}
		return n > 0, nil
	}
}
