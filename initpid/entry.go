package initpid

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// entry is what the cache holds for a namespace, found or failed. Its two
// descriptors make a hit certain at the price of one stat:
//
//   - While nsfd is open, its nsfs inode holds the namespace, and the
//     namespace's inode number is given back only with the last reference to it
//     (destroy_pid_namespace, kernel/pid_namespace.c). So a caller with this
//     inode number is in this namespace and in no other.
//   - A namespace never gets another init: once pid 1 is dying no pid can be
//     allocated in it any more (PIDNS_ADDING, kernel/pid.c). An exec by a thread
//     of the init (de_thread, fs/exec.c) or the exit of its first thread
//     (find_child_reaper, kernel/exit.c) keep the thread group, which is what
//     we hold the id of.
//   - The init cannot be reaped, nor its pidfd become readable, before every
//     other process of the namespace has been reaped (zap_pid_ns_processes). So
//     for a caller that lives the init's pid is still the init's; nothing need
//     be asked on a hit. The pidfd is there to notice the end: see watcher.
//
// The tests hold each of these against the running kernel.
//
// A failure keeps nsfd too. Else its inode number could be given to a new
// namespace, and that would be answered with the failure of the old one.
type entry struct {
	init  Init
	nsfd  int
	pidfd int         // of the init; -1 in a failure
	dead  atomic.Bool // the init has died
	watch uint64      // the watcher's number for this entry
}

// close closes the descriptors. Only the cache's eviction callback and a fill
// touch them, never both at once: that is the promise of cache.Do.
func (e *entry) close() {
	unix.Close(e.nsfd)
	if e.pidfd >= 0 {
		unix.Close(e.pidfd)
	}
}

// errRecycled says that a pid is not, or no more, of the namespace it should be of.
var errRecycled = errors.New("pid is of another namespace")

// verify makes sure that pid is a living process of namespace ns and returns a
// pidfd of it. It gives errRecycled if the question should be asked again.
//
// That it is a process of ns is enough for it to be the init: it was the init
// when we were told its pid, and had it died since then, nobody would be left
// in ns to have that pid.
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

// reverify is verify for a pidfd that is held already.
func (p *procfs) reverify(pidfd, pid int, ns uint64) error {
	got, err := p.namespace(pid)
	if err != nil && !errors.Is(err, ErrCallerGone) {
		return err
	}
	// Asked last: if the process lives now, it was it that had the pid above.
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

// exited says whether the process has ended: all its threads are gone or
// zombies. A first thread that has ended before the others does not count.
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
