// SPDX-License-Identifier: Apache-2.0

package psi

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxPerOwner is the number of triggers that one owner may have. They cost the
	// host at most one kernel thread (psimon) for each control group, which wakes up
	// to twenty times a second while the group is stalled.
	MaxPerOwner = 16
	// MaxTriggers is the number of triggers in all. Each is an open file.
	MaxTriggers = 1024

	// closeWait is how long a new trigger waits for the place of one that is
	// being closed.
	closeWait = 5 * time.Second
	// maxClosers bounds the threads that close files. A close waits for an RCU
	// grace period, which on some kernels takes tens of milliseconds.
	maxClosers = 4
)

// Results of Poll, in the numbers of poll(2), which are those of epoll.
const (
	// quiet is what a file that can be read and written always has
	// (DEFAULT_POLLMASK, include/linux/poll.h).
	quiet = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDNORM | unix.EPOLLWRNORM
	fired = unix.EPOLLPRI
	// none is for a file without a trigger, or of a removed group
	// (psi_trigger_poll, kernel/sched/psi.c).
	none = quiet | unix.EPOLLERR | unix.EPOLLPRI
)

// Record describes a trigger. With it another process can set the trigger again.
type Record struct {
	// Handle is FUSE's number of the open file that the trigger belongs to.
	Handle uint64
	// Request is FUSE's number of the request that sets the trigger; 0 if unknown.
	Request uint64
	// Waiter is FUSE's number of a file that waits for the next event; 0 if none
	// does.
	Waiter uint64
	// File is the path of the file of the control group.
	File    string
	Trigger Trigger
	// Owners are whom the trigger is accounted to. An empty one does not count.
	Owners [2]string
}

// Keeper keeps records for the next process. A Table calls one method at a time. They
// must not call the Table.
type Keeper interface {
	// Keep stores the record of a trigger, in place of an earlier one of the
	// same handle.
	Keep(r Record)
	// Forget removes the record of a handle, if there is one.
	Forget(handle uint64)
}

// entry is a trigger of a Table.
type entry struct {
	Record
	// fd is the file; -1 until the trigger is set.
	fd int
	// pending is set while there is an event that Poll has not returned. The
	// kernel reports each event once.
	pending bool
	// gone is set if the group is removed.
	gone bool
	// released is set if the handle was closed before the trigger was set.
	released bool
	// kept is the Waiter that the Keeper knows.
	kept uint64
}

// owner counts the triggers of an owner.
type owner struct {
	live, closing int
	waiting       bool // a new trigger waits until one is closed
}

// Table has the triggers of all open files. It is safe for concurrent use.
//
// One goroutine waits for the events of all of them, in epoll_wait(2). Go's poller must
// not wait for the epoll descriptor: asked whether that is readable, the kernel asks the
// files in it, and the event is lost (ep_item_poll, fs/eventpoll.c).
type Table struct {
	most   int
	wake   func(waiter uint64)
	keeper Keeper

	mu      sync.Mutex // guards the rest; not held during system calls that may block
	entries map[uint64]*entry
	owners  map[string]owner
	closing []*entry      // to be closed
	open    int           // open files, also those to be closed
	closers int           // goroutines that close files
	closed  chan struct{} // closed, and replaced, when a file is closed
	epoll   int           // -1 before the first trigger
	stop    int           // an eventfd
	stopped chan struct{}
}

// NewTable makes an empty table for at most most triggers. wake is called when there
// is an event for a waiter. It must not block.
func NewTable(most int, wake func(waiter uint64), keeper Keeper) *Table {
	return &Table{
		most:    min(most, MaxTriggers),
		wake:    wake,
		keeper:  keeper,
		entries: map[uint64]*entry{},
		owners:  map[string]owner{},
		closed:  make(chan struct{}),
		epoll:   -1,
	}
}

// Set sets the trigger of r. After it has opened the file, and before it sets the
// trigger, it calls verify, which must return an error if the file is not the right
// one any more. A Request that has set its trigger already is not an error: a request
// is executed again if the process is killed before it has replied.
//
// Errors: EBUSY if the handle has a trigger, or an owner too many; ENOSPC if there
// are too many in all; ENODEV if the group is removed; EOPNOTSUPP if it has no such
// file; EINVAL (since Linux 6.5) or EPERM (before) if the kernel wants
// CAP_SYS_RESOURCE of this process.
func (t *Table) Set(r Record, verify func() error) error {
	if t.isSet(r) {
		return nil
	}
	e := &entry{Record: r, fd: -1, kept: r.Waiter}
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
	// There may be events from here on. One that comes before epoll_ctl is lost, as
	// it is for every program that does the same. There is at most one in a window.
	event := unix.EpollEvent{Events: unix.EPOLLPRI | unix.EPOLLET}
	putToken(&event, r.Handle)
	if err := unix.EpollCtl(t.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		t.remove(e, fd)
		return fmt.Errorf("epoll_ctl %s: %w", r.File, err)
	}
	t.keeper.Keep(e.Record)
	return nil
}

// Len returns how many triggers there are.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// isSet reports whether the trigger of the handle was set by the same request.
func (t *Table) isSet(r Record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[r.Handle]
	return e != nil && e.fd >= 0 && r.Request != 0 && e.Request == r.Request && e.Trigger == r.Trigger
}

// putToken puts the handle into the data that epoll returns with an event. No handle
// is 0.
func putToken(e *unix.EpollEvent, handle uint64) {
	e.Fd, e.Pad = int32(handle>>32), int32(handle)
}

func token(e *unix.EpollEvent) uint64 { return uint64(uint32(e.Fd))<<32 | uint64(uint32(e.Pad)) }

// reserve takes a place in the table for e. If there is none but one is about to be
// free, reserve waits for it: the program has closed its file, and the kernel takes
// its time. One trigger of each owner may wait.
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
		if o := t.owners[full]; o.closing == 0 || o.waiting || left <= 0 {
			return err
		}
		t.count(full, func(o *owner) { o.waiting = true })
		closed := t.closed
		t.mu.Unlock()
		select {
		case <-closed:
		case <-time.After(left):
		}
		t.mu.Lock()
		t.count(full, func(o *owner) { o.waiting = false })
	}
	t.entries[e.Handle] = e
	t.open++
	for _, name := range e.Owners {
		t.count(name, func(o *owner) { o.live++ })
	}
	return nil
}

// count changes the counts of an owner. One whose counts are all 0 is forgotten.
func (t *Table) count(name string, change func(*owner)) {
	if name == "" {
		return
	}
	o := t.owners[name]
	change(&o)
	t.owners[name] = o
	if o == (owner{}) {
		delete(t.owners, name)
	}
}

// room returns an error if there is no room for e, and the owner that has too many,
// if that is the reason.
func (t *Table) room(e *entry) (full string, err error) {
	for _, name := range e.Owners {
		if o := t.owners[name]; o.live+o.closing >= MaxPerOwner {
			return name, fmt.Errorf("%d triggers of %s: %w", MaxPerOwner, name, unix.EBUSY)
		}
	}
	if t.open >= t.most {
		return "", fmt.Errorf("%d triggers in all: %w", t.most, unix.ENOSPC)
	}
	return "", nil
}

// arm opens the file of e and writes the trigger. With an error it returns the file
// too, -1 if it is not open.
func (t *Table) arm(e *entry, verify func() error) (int, error) {
	fd, err := unix.Open(e.File, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		if err := verify(); err != nil {
			return -1, err
		}
		// The group is there, so cgroup.pressure is 0, or the kernel was started
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
	t.keeper.Forget(e.Handle)
	t.close(e, fd)
}

// close closes the file of e in another goroutine. The caller holds mu.
func (t *Table) close(e *entry, fd int) {
	for _, name := range e.Owners {
		t.count(name, func(o *owner) { o.live--; o.closing++ })
	}
	e.fd = fd
	t.closing = append(t.closing, e)
	if t.closers < maxClosers {
		t.closers++
		go t.closeAll()
	}
}

// closeAll closes the files of removed entries until none is left.
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
			t.count(name, func(o *owner) { o.closing-- })
		}
		close(t.closed)
		t.closed = make(chan struct{})
	}
	t.closers--
}

// Poll returns the events of handle since the last Poll that asked for them, as the
// kernel's own file does. An event stays until asked has EPOLLPRI. If waiter is not 0,
// it is woken at the next event.
func (t *Table) Poll(handle, waiter uint64, asked uint32) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[handle]
	if e == nil || e.gone {
		return none
	}
	if waiter != 0 {
		e.Waiter = waiter
		if e.kept != waiter && e.fd >= 0 {
			e.kept = waiter
			t.keeper.Keep(e.Record)
		}
	}
	if e.pending && asked&fired != 0 {
		e.pending = false
		return quiet | fired
	}
	return quiet
}

// Release ends the trigger of a handle, if it has one. It does not block.
func (t *Table) Release(handle uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[handle]
	switch {
	case e == nil:
	case e.fd < 0:
		e.released = true // Set removes it
	default:
		t.remove(e, e.fd)
	}
}
