// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
)

// Bounds of how many listeners there may be. A process that is added to a running container
// brings one of its own.
const (
	maxListeners    = 8192
	maxPerContainer = 512
)

// ErrTooMany says that there are too many listeners, in all or of one container.
var ErrTooMany = errors.New("too many seccomp listeners")

// Agent answers the calls of containers. It is safe for concurrent use.
type Agent struct {
	view View
	log  *slog.Logger

	mu         sync.Mutex
	containers map[string]*container
	listeners  int

	counts *counts
	panics atomic.Uint64
}

// container is a container with listeners.
type container struct {
	throttle
	listeners int
}

// NewAgent returns an agent that takes its numbers from view.
func NewAgent(view View, log *slog.Logger) *Agent {
	return newAgent(view, log, new(counts))
}

func newAgent(view View, log *slog.Logger, n *counts) *Agent {
	return &Agent{view: view, log: log, containers: make(map[string]*container), counts: n}
}

// outcome is what became of a call.
type outcome int

const (
	// answered with the container's numbers.
	answered outcome = iota
	// left to the kernel, whose answer is right as it is.
	left
	// invisible: the caller has no id in this pid namespace.
	invisible
	// gone: the caller did not wait any more.
	gone
	// failure: there were no numbers, or the caller's memory could not be written.
	failure
	numOutcomes
)

var outcomeNames = [numOutcomes]string{"answered", "left", "invisible", "gone", "failed"}

// counts is how often each call had each outcome.
type counts [numKinds][numOutcomes]atomic.Uint64

func (c *counts) add(k kind, o outcome) uint64 { return c[k][o].Add(1) }

// stats returns the counts as "CALL/OUTCOME". Those that never were are left out.
func (c *counts) stats() map[string]uint64 {
	all := make(map[string]uint64)
	for k := range numKinds {
		for o := range numOutcomes {
			if n := c[k][o].Load(); n > 0 {
				all[k.String()+"/"+outcomeNames[o]] = n
			}
		}
	}
	return all
}

// record counts what became of a call. It logs the first failure of each kind.
func (a *Agent) record(k kind, o outcome, err error) {
	if a.counts.add(k, o) == 1 && o == failure {
		a.log.Info("the kernel answers a system call", "call", k.String(), "err", err)
	}
}

// panicked counts a panic, and logs the first.
func (a *Agent) panicked(k kind, p any) {
	a.counts.add(k, failure)
	if a.panics.Add(1) == 1 {
		a.log.Error("panic while a system call was answered", "call", k.String(), "panic", p, "stack", string(debug.Stack()))
	}
}

// Stats returns how often each call had each outcome, as "CALL/OUTCOME". Those that never
// were are left out.
func (a *Agent) Stats() map[string]uint64 { return a.counts.stats() }

// enter counts a listener of the named container.
func (a *Agent) enter(name string) (*container, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[name]
	if a.listeners >= maxListeners || c != nil && c.listeners >= maxPerContainer {
		return nil, ErrTooMany
	}
	return a.add(name), nil
}

// join is enter for a listener that was counted before.
func (a *Agent) join(name string) *container {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.add(name)
}

func (a *Agent) add(name string) *container {
	c := a.containers[name]
	if c == nil {
		c = new(container)
		a.containers[name] = c
	}
	c.listeners++
	a.listeners++
	return c
}

func (a *Agent) leave(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners--
	if c := a.containers[name]; c.listeners > 1 {
		c.listeners--
	} else {
		delete(a.containers, name)
	}
}

// maxPause bounds the wait after an error of receiving.
const maxPause = time.Second

// Serve answers the calls of l until no thread has its filter any more, which is no error,
// or until l is closed. The listeners of one container, whose name is any text, share what
// it may ask in a second.
func (a *Agent) Serve(name string, l *seccomp.Listener) error {
	c, err := a.enter(name)
	if err != nil {
		return err
	}
	defer a.leave(name)
	w := newAnswerer(a)
	var n seccomp.Notification
	for pause := time.Millisecond; ; {
		switch err := l.Receive(&n); {
		case err == io.EOF:
			return nil
		case errors.Is(err, os.ErrClosed):
			return err
		case err != nil:
			// Of memory for example. To give up would be ENOSYS for all callers.
			a.log.Error("no notification received", "container", name, "err", err)
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = time.Millisecond
		time.Sleep(c.take(time.Now()))
		t := caller{tid: int(n.TID), memory: -1, valid: func() bool { return l.Valid(n.ID) }}
		resp := w.answer(&n, &t)
		t.close()
		if err := l.Send(&resp); err != nil && err != unix.ENOENT {
			a.log.Error("a system call is not answered", "container", name, "err", err)
		}
	}
}

// ServeLXC answers the calls that a monitor of LXC hands on over c, until that is closed.
func (a *Agent) ServeLXC(c *net.UnixConn) error {
	peer, err := peerPID(c)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("lxc monitor %d", peer)
	group, err := a.enter(name)
	if err != nil {
		return err
	}
	defer a.leave(name)
	w := newAnswerer(a)
	for {
		r, err := seccomp.ReceiveLXC(c)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		time.Sleep(group.take(time.Now()))
		// The monitor has checked that the memory is the caller's.
		t := caller{tid: int(r.TID), memory: r.Memory, valid: func() bool { return true }}
		if r.Monitor != peer {
			t.tid = 0 // its ids are those of another pid namespace
		}
		resp := w.answer(&r.Notification, &t)
		err = r.Reply(c, &resp)
		r.Close()
		if err != nil {
			return err
		}
	}
}

// peerPID returns the pid of the process at the other end.
func peerPID(c *net.UnixConn) (pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, errors.Join(err, controlErr)
}
