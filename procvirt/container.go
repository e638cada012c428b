// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/initpid"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/scan"
)

// Container is the container of a caller, held for one request: until Release its
// account is not dropped. It also is the memory that the request works in. Not safe
// for concurrent use.
type Container struct {
	*state // nil until it is bound

	registry *Registry
	turn     Turn
	pid      int
	now      int64 // when it was acquired, on the clock of Config.Now
	init     initpid.Init

	// groups is the text of the caller's /proc/PID/cgroup, and initGroups that of
	// the init's. buf is for files of control groups, and host for the host's file,
	// which is used until the text is made. Nothing is read from them that the
	// request has not written before.
	groups, initGroups, buf, host, list []byte
	// path is for the path of a file of a memory node, and node is its number.
	path []byte
	node int
	// policy is the container's, and attributes the text that it was made of.
	policy     *policy
	attributes []byte
	// took is how long it took to make the content.
	took time.Duration
}

func newContainer(r *Registry) *Container {
	return &Container{
		registry: r, policy: &r.noPolicy, buf: make([]byte, 0, 8192), host: make([]byte, 0, 8192),
		groups: make([]byte, 0, 1024), initGroups: make([]byte, 0, 1024),
	}
}

// Release ends the request's hold on the container.
func (c *Container) Release() {
	c.unbind()
	c.turn, c.pid, c.init, c.policy = nil, 0, initpid.Init{}, &c.registry.noPolicy
	c.registry.requests.Put(c)
}

func (c *Container) unbind() {
	if c.state != nil {
		c.state.users.Add(-1)
		c.state = nil
	}
}

// refusal is an error of Turn.Block: the request must be answered with it.
type refusal struct{ error }

func (e refusal) Unwrap() error { return e.error }

// block must be called before work that may block or take long.
func (c *Container) block() error {
	if err := c.turn.Block(c.init.Owner); err != nil {
		return refusal{err}
	}
	return nil
}

// identify finds the init of the caller's pid namespace, and the caller's groups.
func (c *Container) identify() (err error) {
	r := c.registry
	if c.pid == 0 {
		return Invisible
	}
	if groups, ns, ok := r.callers.Read(c.pid, c.groups); ok {
		c.groups = groups
		if c.init, ok, err = r.inits.LookupNS(ns); ok && err == nil {
			return nil
		}
	}
	var ok bool
	if c.init, ok, err = r.inits.Lookup(c.pid); !ok && err == nil {
		// The owner is not known yet. Block asks for it, off the reader.
		if err := c.block(); err != nil {
			return err
		}
		err = r.withRoom(nil, func() (err error) {
			c.init, err = r.inits.Resolve(c.pid)
			return err
		})
	}
	if err != nil {
		return unresolved(err)
	}
	err = c.readGroups()
	if noDescriptors(err) {
		if err := c.block(); err != nil {
			return err
		}
		err = r.withRoom(nil, c.readGroups)
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		return fmt.Errorf("%w: %w", CallerGone, err)
	case err != nil && !isOurs(err):
		return fmt.Errorf("%w: %w", Unreadable, err)
	}
	return err
}

func (c *Container) readGroups() (err error) {
	groups, err := c.registry.callers.Learn(c.pid, c.init.NS, c.groups)
	if err == nil {
		c.groups = groups
	}
	return err
}

// unresolved names the reason why no init was found.
func unresolved(err error) error {
	reason := Unresolved
	switch {
	case errors.Is(err, initpid.ErrCallerGone):
		reason = CallerGone
	case errors.Is(err, initpid.ErrNotVisible):
		reason = Invisible
	case errors.Is(err, initpid.ErrNoInit):
		// It may come with ENOMEM, which is what clone(2) says of a dead namespace.
		reason = NoInit
	case isOurs(err):
		return err
	}
	return fmt.Errorf("%w: %w", reason, err)
}

// bind finds the state of the container that the init and the groups lead to.
func (c *Container) bind() error {
	if c.state = c.registry.find(c); c.state != nil {
		return nil
	}
	if err := c.block(); err != nil {
		return err
	}
	return c.decide()
}

// decide is bind if the decision has to be made anew. The turn has blocked.
func (c *Container) decide() error {
	r := c.registry
	r.counts.decisions.Add(1)
	// A namespace can be dropped again in the meantime, but not over and over.
	for range maxRounds {
		sp, err := r.space(&c.init)
		if err != nil {
			return err
		}
		err = r.withRoom(sp.owner, func() (err error) {
			c.state, err = sp.decide(c)
			return err
		})
		if err != nil || c.state != nil {
			return err
		}
	}
	return fmt.Errorf("pid namespace %d: %w", c.init.NS, NoInit)
}

// maxRounds is how often something is done again that others undo.
const maxRounds = 4

// Append appends file f as the container sees it. If the container has no such
// numbers of its own, that is the host's file, and a counted Reason. It makes no
// allocation once the container's files are open and dst is large enough.
func (c *Container) Append(dst []byte, f *File) ([]byte, error) {
	c.countRead()
	text, err := c.content(dst, f)
	if err != nil {
		text, err = c.registry.appendHost(dst, f, err, c)
	}
	c.countFile(f)
	return text, err
}

// LastCPU returns the number of the highest CPU that the container may run on, which
// is the highest of its possible ones. If the container has no CPUs of its own, that is
// any number, and a Reason is counted.
func (c *Container) LastCPU() (int, error) {
	text, err := c.content(c.list[:0], c.registry.possible)
	if err != nil {
		return math.MaxInt, c.registry.NoCPUs(err)
	}
	c.list = text
	last, _ := scan.Uint(text[bytes.IndexByte(text, '-')+1:])
	return int(last), nil
}

// Offline reports whether the container does not see a CPU that it may run on. If it
// has no CPUs of its own none is off, and a Reason is counted.
func (c *Container) Offline(cpu int) (bool, error) {
	text, err := c.content(c.list[:0], c.registry.offline)
	if err != nil {
		return false, c.registry.NoCPUs(err)
	}
	c.list = text
	var off cgroup.CPUs
	err = off.Parse(text)
	return off.Has(cpu), err
}

// NoCPUs counts the Reason that err has for showing the host's CPUs. It returns err if
// that is none.
func (r *Registry) NoCPUs(err error) error { return r.fallBack(r.possible, err) }

// content appends the content of f.
func (c *Container) content(dst []byte, f *File) (text []byte, err error) {
	if c.pace[f.index].isSlow() {
		if err := c.block(); err != nil {
			return dst, err
		}
	}
	text, err = c.warmContent(dst, f)
	for round := 0; needsOpening(err) && round < maxRounds; round++ {
		text, err = c.coldContent(dst, f, err)
	}
	if needsOpening(err) {
		err = fmt.Errorf("control groups of pid namespace %d keep changing: %w", c.init.NS, RemovedCgroup)
	}
	if err != nil {
		return dst, err
	}
	return text, nil
}

// needsOpening reports whether err says that files are to be opened: they are not open,
// or what was open has vanished (ENODEV): the group, or this file of it.
func needsOpening(err error) bool {
	return err == errNotOpen || err != nil && errors.Is(err, unix.ENODEV)
}

// warmContent is content if all that f needs is open. It returns errNotOpen if not.
func (c *Container) warmContent(dst []byte, f *File) ([]byte, error) {
	if !c.mu.TryRLock() {
		// Somebody opens files.
		if err := c.block(); err != nil {
			return dst, err
		}
		c.mu.RLock()
	}
	defer c.mu.RUnlock()
	if err := c.checkPolicy(f); err != nil {
		return dst, err
	}
	if err := c.ready(c.policy.needs(f, &c.registry.cfg), c.now); err != nil {
		return dst, err
	}
	return c.timedContent(dst, f)
}

// timedContent is content if all that f needs is open. The caller holds mu.
func (c *Container) timedContent(dst []byte, f *File) ([]byte, error) {
	start := time.Since(c.registry.began) // half of what time.Now takes
	text, err := f.content(dst, c)
	took := time.Since(c.registry.began) - start
	c.took = took
	c.pace[f.index].took(took, c.registry.slowAfter)
	if took >= slowRead {
		c.slow.Add(1)
	}
	return text, err
}

// coldContent is content if files have to be opened: why is what needsOpening reported.
// They are not closed again before they are read, however many others want room.
func (c *Container) coldContent(dst []byte, f *File, why error) (text []byte, err error) {
	if err := c.block(); err != nil {
		return dst, err
	}
	c.registry.counts.coldOpens.Add(1)
	start := time.Since(c.registry.began)
	defer func() { c.took = time.Since(c.registry.began) - start }()
	text, err = c.openContent(dst, f, why)
	if errors.Is(err, errOtherGroup) {
		if err := c.moveToOtherGroup(); err != nil {
			return dst, err
		}
		return dst, errNotOpen
	}
	return text, err
}

// openContent opens what f needs, and returns its content.
func (c *Container) openContent(dst []byte, f *File, why error) (text []byte, err error) {
	r := c.registry
	err = r.withRoom(c.space.owner, func() (err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if why != errNotOpen {
			c.closeLocked()
		}
		if err := c.openPolicy(); err != nil {
			return err
		}
		if err := c.checkPolicy(f); err != nil {
			return err
		}
		if err := c.open(c.policy.needs(f, &r.cfg)); err != nil {
			return err
		}
		text, err = c.timedContent(dst, f)
		return err
	})
	return text, err
}

// moveToOtherGroup binds c to the container of the group that has the path now. The
// turn has blocked.
func (c *Container) moveToOtherGroup() error {
	c.space.reconsider(string(c.groups))
	c.unbind()
	return c.decide()
}
