// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxCandidates bounds how many processes are watched at a time.
	maxCandidates = 1024
	// settle is how long a candidate that is followed may be left alone after its
	// mounts have changed, if its root has not.
	settle = 50 * time.Millisecond
	// pause is how long the mounts of a candidate may change without another look: a
	// runtime mounts two dozen file systems within some milliseconds.
	pause = time.Millisecond
	// mountsChange are the events of a mountinfo that has changed.
	mountsChange = unix.EPOLLPRI | unix.EPOLLONESHOT
)

// waits are the times between two looks at a candidate. After the last it is given
// up.
var waits = [...]time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 5 * time.Second}

// followedTries is the index in waits for a candidate that is followed: a change of its
// root says when to look.
const followedTries = 2

// candidate is a process that may become a container.
type candidate struct {
	pid   int
	fd    int // of its mountinfo, if it is followed, else -1
	tries int // index in waits
	due   time.Time
	// paused is when changes of its mounts are reported again, or zero if they are.
	paused time.Time
	// looked is when it was judged last, and root the beginning of its mountinfo then.
	looked time.Time
	root   [64]byte
}

// candidates are processes to look at again. They are for one goroutine.
type candidates struct {
	proc   string // /proc
	poller *poller
	byPID  map[int]*candidate
	byFD   map[int]*candidate
}

func newCandidates(proc string, poller *poller) *candidates {
	return &candidates{proc: proc, poller: poller, byPID: make(map[int]*candidate), byFD: make(map[int]*candidate)}
}

// add has a process looked at again. It returns false if there are too many.
func (c *candidates) add(pid int, follow bool, now time.Time) bool {
	p := c.byPID[pid]
	if p == nil {
		if len(c.byPID) >= maxCandidates {
			return false
		}
		p = &candidate{pid: pid, fd: -1}
		c.byPID[pid] = p
	}
	if follow && p.fd < 0 {
		c.follow(p)
	}
	p.tries, p.looked = 0, now
	if p.fd >= 0 {
		p.tries = followedTries
	}
	p.due = now.Add(waits[p.tries])
	return true
}

// follow has the poller report changes of the mounts of p. If that fails,
// the waits still apply.
func (c *candidates) follow(p *candidate) {
	fd, err := unix.Open(fmt.Sprintf("%s/%d/mountinfo", c.proc, p.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	if err := c.poller.add(fd, mountsChange); err != nil {
		unix.Close(fd)
		return
	}
	p.fd = fd
	c.byFD[fd] = p
	p.rootChanged()
}

// drop forgets a process.
func (c *candidates) drop(pid int) {
	p := c.byPID[pid]
	if p == nil {
		return
	}
	delete(c.byPID, pid)
	if p.fd >= 0 {
		delete(c.byFD, p.fd)
		unix.Close(p.fd) // the poller forgets it
	}
}

// changed notes that mounts of p have changed. It returns true if p should be looked
// at now. A runtime mounts a dozen file systems before it changes the root, which is
// the moment that counts; others are looked at when their mounts settle.
func (c *candidates) changed(p *candidate, now time.Time) bool {
	p.paused = now.Add(pause)
	if p.rootChanged() {
		return true
	}
	if due := p.looked.Add(settle); due.Before(p.due) {
		p.due = due
	}
	return false
}

// resume ends the pauses that are over. It returns the candidates whose root has changed
// meanwhile: to ask for changes of a mountinfo again takes those that have happened.
func (c *candidates) resume(now time.Time) (changed []*candidate) {
	for fd, p := range c.byFD {
		if p.paused.IsZero() || p.paused.After(now) {
			continue
		}
		p.paused = time.Time{}
		_ = c.poller.again(fd, mountsChange) // without it the waits still apply
		if p.rootChanged() {
			changed = append(changed, p)
		}
	}
	return changed
}

// rootChanged reports whether the first line of the mountinfo of p has changed: the
// root of the process has another parent after pivot_root(2). The kernel makes only
// the lines that are read.
func (p *candidate) rootChanged() bool {
	var b [64]byte
	if _, err := unix.Pread(p.fd, b[:], 0); err != nil {
		return true
	}
	if b == p.root {
		return false
	}
	p.root = b
	return true
}

// retry sets when p is looked at next. It returns false if p is to be given up.
func (p *candidate) retry(now time.Time) bool {
	p.tries++
	if p.tries >= len(waits) {
		return false
	}
	p.looked, p.due = now, now.Add(waits[p.tries])
	return true
}

// next returns when a candidate is due, or its pause is over, and false if there is none.
func (c *candidates) next() (due time.Time, ok bool) {
	for _, p := range c.byPID {
		if !ok || p.due.Before(due) {
			due, ok = p.due, true
		}
		if !p.paused.IsZero() && p.paused.Before(due) {
			due = p.paused
		}
	}
	return due, ok
}

// expired returns the candidates that are due.
func (c *candidates) expired(now time.Time) []*candidate {
	var due []*candidate
	for _, p := range c.byPID {
		if !p.due.After(now) {
			due = append(due, p)
		}
	}
	return due
}
