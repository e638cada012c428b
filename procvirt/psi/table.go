package psi

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxPerOwner is how many triggers one owner may have. They cost the host at
	// most one kernel thread (psimon) for each control group, which wakes up to
	// twenty times a second while the group is stalled.
	MaxPerOwner = 16
	// MaxTriggers is how many there may be in all, each an open file.
	MaxTriggers = 1024

	// closeWait is how long a new trigger waits for the place of one that is
	// being closed.
	closeWait = 5 * time.Second
	// maxClosers bounds the threads that close files. A close waits for an RCU
	// grace period, which on some kernels takes tens of milliseconds.
	maxClosers = 4
)

// What Poll returns, in the numbers of poll(2), which are epoll's.
const (
	// quiet is what a file that can be read and written always has
	// (DEFAULT_POLLMASK, include/linux/poll.h).
	quiet = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDNORM | unix.EPOLLWRNORM
	fired = unix.EPOLLPRI
	// none is for a file without a trigger, or whose group is removed
	// (psi_trigger_poll, kernel/sched/psi.c).
	none = quiet | unix.EPOLLERR | unix.EPOLLPRI
)

// Record is all that there is to know of a trigger: another process that has it
// can make the trigger again with Set, and, as an event may have been lost
// meanwhile, should wake Waiter.
type Record struct {
	// Handle is the open file that the trigger belongs to, as FUSE numbers it.
	Handle uint64
	// Waiter is who waits for the next event, as FUSE numbers it; 0 is nobody.
	Waiter uint64
	// File is the path of the file of the control group.
	File    string
	Trigger Trigger
	// Owners are who the trigger is counted for. Empty ones do not count.
	Owners [2]string
}

// entry is a trigger of the table.
type entry struct {
	Record
	// fd is the file, -1 while the trigger is not made yet.
	fd int
	// pending says that an event came that nobody has been told of: the kernel
	// tells of each only once, and told us.
	pending bool
	// gone says that the group is removed.
	gone bool
	// released says that the handle was closed before the trigger was made.
	released bool
}

// owner counts the triggers of an owner.
type owner struct {
	live, closing int
	waiting       bool // a new one waits until one is closed
}

// Table has the triggers of all open files. It is safe for concurrent use.
//
// One goroutine waits for all of them with epoll(7), parked in the system call.
// It must not wait for the epoll descriptor itself, as Go's own poller would: to
// ask that whether it is readable asks the files in it, and with that the event
// is gone (ep_item_poll, fs/eventpoll.c).
type Table struct {
	most int
	wake func(waiter uint64)

	mu      sync.Mutex // guards the rest, not held during system calls that may wait
	entries map[uint64]*entry
	owners  map[string]*owner
	live    int
	closing []*entry      // waiting for a closer
	open    int           // files that are open, those that are closing included
	closers int           // goroutines that close
	closed  chan struct{} // closed when some file is, and made anew
	epoll   int           // -1 before the first trigger
	stop    int           // an eventfd
	stopped chan struct{}
}

// NewTable makes an empty table for at most so many triggers, which should be no more
// than MaxTriggers. wake is called when there is an event for a waiter; it must not
// wait.
func NewTable(most int, wake func(waiter uint64)) *Table {
	return &Table{
		most:    most,
		wake:    wake,
		entries: map[uint64]*entry{},
		owners:  map[string]*owner{},
		closed:  make(chan struct{}),
		epoll:   -1,
	}
}

// Set makes the trigger of r. Between opening the file and making the trigger it
// calls verify, which tells whether that is still the file it should be.
//
// Errors: EBUSY where the handle has a trigger, or one of the owners too many;
// ENOSPC where there are too many in all; ENODEV where the group is removed;
// EOPNOTSUPP where it has no such file; EINVAL and EPERM where the kernel wants
// CAP_SYS_RESOURCE of this process, since Linux 6.5 and before.
func (t *Table) Set(r Record, verify func() error) error {
	e := &entry{Record: r, fd: -1}
	if err := t.reserve(e); err != nil {
		return err
	}
	fd, err := t.arm(e, verify)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || e.released {
		t.remove(e, fd)
		return err
	}
	e.fd = fd
	// From here on there may be events. One that comes before the next line is
	// lost, as it is for every program that does the same; there is no more than
	// one in a window.
	event := unix.EpollEvent{Events: unix.EPOLLPRI | unix.EPOLLET}
	putToken(&event, r.Handle)
	if err := unix.EpollCtl(t.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		t.remove(e, fd)
		return fmt.Errorf("epoll_ctl %s: %w", r.File, err)
	}
	return nil
}

// putToken makes the handle what epoll returns with an event. Handles are never 0.
func putToken(e *unix.EpollEvent, handle uint64) {
	e.Fd, e.Pad = int32(handle>>32), int32(handle)
}

func token(e *unix.EpollEvent) uint64 { return uint64(uint32(e.Fd))<<32 | uint64(uint32(e.Pad)) }

// reserve takes a place in the table for e. Where there is none but one is about
// to be free, it waits for that: what the program had there is closed for it, and
// only takes its time. One at a time waits for each owner.
func (t *Table) reserve(e *entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.start(); err != nil {
		return err
	}
	for end := time.Now().Add(closeWait); ; {
		if t.entries[e.Handle] != nil {
			return fmt.Errorf("the file has a trigger: %w", unix.EBUSY)
		}
		full, err := t.room(e)
		if err == nil {
			break
		}
		left := time.Until(end)
		if full == nil || full.closing == 0 || full.waiting || left <= 0 {
			return err
		}
		full.waiting = true
		closed := t.closed
		t.mu.Unlock()
		select {
		case <-closed:
		case <-time.After(left):
		}
		t.mu.Lock()
		full.waiting = false
		t.forget(full, e.Owners[:]...)
	}
	t.entries[e.Handle] = e
	t.live++
	t.open++
	for _, name := range e.Owners {
		if name != "" {
			t.owner(name).live++
		}
	}
	return nil
}

// owner returns the counts of an owner, new ones where it has none.
func (t *Table) owner(name string) *owner {
	o := t.owners[name]
	if o == nil {
		o = &owner{}
		t.owners[name] = o
	}
	return o
}

// forget removes o, which has one of the names, where there is nothing to count.
func (t *Table) forget(o *owner, names ...string) {
	for _, name := range names {
		if t.owners[name] == o && *o == (owner{}) {
			delete(t.owners, name)
		}
	}
}

// room returns an error where there is no room for e, and which owner has too
// many, if it is that.
func (t *Table) room(e *entry) (*owner, error) {
	for _, name := range e.Owners {
		if o := t.owners[name]; o != nil && o.live+o.closing >= MaxPerOwner {
			return o, fmt.Errorf("%d triggers of %s: %w", MaxPerOwner, name, unix.EBUSY)
		}
	}
	if t.open >= t.most {
		return nil, fmt.Errorf("%d triggers in all: %w", t.most, unix.ENOSPC)
	}
	return nil, nil
}

// arm opens the file of e and writes the trigger. It returns the file, if it is
// open, and an error.
func (t *Table) arm(e *entry, verify func() error) (int, error) {
	fd, err := unix.Open(e.File, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		if err := verify(); err != nil {
			return -1, err
		}
		// The group is there: cgroup.pressure is 0, or the kernel was started
		// with cgroup_disable=pressure.
		err = unix.EOPNOTSUPP
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", e.File, err)
	}
	if err := verify(); err != nil {
		return fd, err
	}
	if _, err := unix.Write(fd, append([]byte(e.Trigger.String()), 0)); err != nil {
		return fd, fmt.Errorf("write %q to %s: %w", e.Trigger, e.File, err)
	}
	return fd, nil
}

// remove takes e out of the table and closes its file. The caller holds mu.
func (t *Table) remove(e *entry, fd int) {
	delete(t.entries, e.Handle)
	t.live--
	for _, name := range e.Owners {
		if o := t.owners[name]; o != nil {
			o.live--
			o.closing++
		}
	}
	e.fd = fd
	t.closing = append(t.closing, e)
	if t.closers < maxClosers {
		t.closers++
		go t.closeAll()
	}
}

// closeAll closes the files of removed entries until there are none.
func (t *Table) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.closing) > 0 {
		e := t.closing[0]
		t.closing = t.closing[1:]
		if e.fd >= 0 {
			t.mu.Unlock()
			unix.Close(e.fd)
			t.mu.Lock()
		}
		t.open--
		for _, name := range e.Owners {
			if o := t.owners[name]; o != nil {
				o.closing--
				t.forget(o, name)
			}
		}
		close(t.closed)
		t.closed = make(chan struct{})
	}
	t.closers--
}

// Poll returns the events that have come for handle since they were last asked
// for: the kernel's own answer, but that an event waits until somebody asks who
// is interested in it. Where waiter is not 0 it is woken at the next event.
func (t *Table) Poll(handle, waiter uint64, asked uint32) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[handle]
	if e == nil || e.gone {
		return none
	}
	if waiter != 0 {
		e.Waiter = waiter
	}
	if e.pending && asked&fired != 0 {
		e.pending = false
		return quiet | fired
	}
	return quiet
}

// Release ends the trigger of a handle, if it has one. It does not wait.
func (t *Table) Release(handle uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[handle]
	switch {
	case e == nil:
	case e.fd < 0:
		e.released = true // Set is on its way
	default:
		t.remove(e, e.fd)
	}
}
