// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"vprocfs/initpid"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/held"
	"vprocfs/procvirt/host"
)

// space is what is known of one pid namespace.
type space struct {
	registry *Registry
	owner    *owner
	ns, id   uint64 // the inode, and NS_GET_ID or 0
	init     int
	started  int64 // of the init, in nanoseconds since the host booted
	// bootOffset is how far the boot clock of the container's time namespace is
	// ahead of the daemon's. It cannot change while processes are in it.
	bootOffset time.Duration
	host       bool // the daemon's own

	// used is when a container of it was last acquired, on the clock of Config.Now.
	used atomic.Int64
	// opened is when files of a container of it were last opened, all having been closed.
	opened atomic.Int64

	// mu is held for writing while decisions are made, and for reading while they
	// are used. It is taken before state.mu.
	mu      sync.RWMutex
	dropped bool
	// groups is the init's /proc/PID/cgroup, nil in the host's space and if
	// nothing is open. If the first thread of the init has exited, it is
	// another thread's.
	groups     *held.File
	callers    map[string]*membership // by the text of the caller's /proc/PID/cgroup
	containers map[identity]*state
}

// is reports whether sp is the namespace of init.
func (sp *space) is(init *initpid.Init) bool { return sp.init == init.PID && sp.id == init.ID }

// membership is the decision which container a caller in certain groups is in.
type membership struct {
	state *state
	// init is the text of the init's groups that it rests on.
	init []byte
	// until is when to look again, on the clock of Config.Now.
	until int64
}

// maxCallers bounds the decisions remembered for one pid namespace: a container may make
// any number of groups, each with a path of up to 4 KiB in every hierarchy.
const (
	maxCallers     = 64
	maxCallersHost = 4096
	// fewCallers is maxCallers for an owner with many containers.
	fewCallers = 8
)

// find returns the state of c's container, nil if a decision has to be made first.
func (r *Registry) find(c *Container) *state {
	sp := r.known(&c.init)
	if sp == nil || !sp.mu.TryRLock() {
		return nil
	}
	defer sp.mu.RUnlock()
	return sp.find(c)
}

// known returns the space of init, nil if there is none.
func (r *Registry) known(init *initpid.Init) *space {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if sp := r.spaces[init.NS]; sp != nil && sp.is(init) {
		return sp
	}
	return nil
}

// find is Registry.find. The caller holds mu.
//
// It reads the init's groups only if they are not the caller's own. If they are, the
// container is that group, or one above it that the init moved up to since, which the
// next decision brings to light.
func (sp *space) find(c *Container) *state {
	m := sp.callers[string(c.groups)]
	if m == nil || c.now > m.until {
		return nil
	}
	if sp.groups != nil && string(m.init) != string(c.groups) {
		init, err := sp.groups.Read(c.initGroups)
		if err != nil || string(init) != string(m.init) {
			return nil
		}
		c.initGroups = init
	}
	sp.used.Store(c.now)
	m.state.users.Add(1)
	return m.state
}

// decide finds the state of c's container, by the groups of the caller and of the init
// as they are now. It returns nil if sp was dropped.
func (sp *space) decide(c *Container) (*state, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.dropped {
		return nil, nil
	}
	if s := sp.find(c); s != nil {
		return s, nil // somebody else came first
	}
	r := sp.registry
	var init []byte
	if !sp.host && r.cfg.Policy != cgroup.Caller {
		var err error
		if init, err = sp.readInit(); err != nil {
			return nil, err
		}
	}
	g := r.locate(c.groups, init)
	if err := g.resourceError(); err != nil {
		return nil, err
	}
	s := sp.containers[g.id]
	if s == nil {
		s = sp.add(g)
	}
	now := r.cfg.Now()
	sp.used.Store(now)
	s.users.Add(1)
	sp.makeRoom()
	sp.callers[string(c.groups)] = &membership{state: s, init: init, until: now + int64(r.cfg.Recheck)}
	return s, nil
}

// add returns the state of a container in groups that were not seen before.
func (sp *space) add(g groups) *state {
	if !sp.host {
		// The init lives, and so does the container: it goes on in the new groups.
		for id, s := range sp.containers {
			if s.samePaths(&g) {
				delete(sp.containers, id)
				s.move(g)
				sp.containers[g.id] = s
				return s
			}
		}
	}
	n := len(sp.registry.files)
	s := &state{registry: sp.registry, space: sp, groups: g, pace: make([]pace, n), files: make([]fileCount, n)}
	s.known.Store(&sp.registry.noPolicy)
	sp.owner.states.Add(1)
	s.persist()
	sp.containers[g.id] = s
	return s
}

// reconsider forgets the decision about callers in groups.
func (sp *space) reconsider(groups string) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	delete(sp.callers, groups)
}

// readInit reads the init's groups and keeps the file open. It is opened anew each time:
// the first thread of the init may have exited, whose file says nothing of use then.
func (sp *space) readInit() ([]byte, error) {
	sp.groups.Close()
	sp.groups = nil
	f, err := cgroup.OpenInitMembership(&sp.owner.opener, sp.registry.proc, sp.init)
	if err != nil {
		return nil, err
	}
	sp.groups = f
	return f.Read(nil)
}

// makeRoom forgets decisions, and containers that no decision leads to and no request
// holds, if there are too many. The caller holds mu for writing.
func (sp *space) makeRoom() {
	limit := maxCallers
	switch {
	case sp.host:
		limit = maxCallersHost
	case sp.owner.states.Load() > maxOwnedStates:
		limit = fewCallers
	}
	for text := range sp.callers {
		if len(sp.callers) < limit {
			break
		}
		delete(sp.callers, text)
	}
	if len(sp.containers) <= limit {
		return
	}
	decided := map[*state]bool{}
	for _, m := range sp.callers {
		decided[m.state] = true
	}
	for id, s := range sp.containers {
		if !decided[s] && s.users.Load() == 0 {
			s.end()
			delete(sp.containers, id)
		}
	}
}

// isHeld reports whether a request holds a container of sp. The caller holds mu for
// writing.
func (sp *space) isHeld() bool {
	for _, s := range sp.containers {
		if s.users.Load() != 0 {
			return true
		}
	}
	return false
}

// tryClose closes files of containers until enough reports true.
func (sp *space) tryClose(enough func() bool) {
	if !sp.mu.TryRLock() {
		return
	}
	defer sp.mu.RUnlock()
	for _, s := range sp.containers {
		if enough() {
			return
		}
		s.tryClose()
	}
}

// release closes all files, and keeps what was shown. It does nothing if decisions are
// made or used just now.
func (sp *space) release() {
	if !sp.mu.TryLock() {
		return
	}
	defer sp.mu.Unlock()
	sp.groups.Close()
	sp.groups = nil
	for _, s := range sp.containers {
		s.tryClose()
	}
	clear(sp.callers) // they rest on groups
}

// end forgets everything.
func (sp *space) end() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.endLocked()
}

func (sp *space) endLocked() {
	sp.dropped = true
	sp.groups.Close()
	sp.groups = nil
	for _, s := range sp.containers {
		s.end()
	}
	clear(sp.callers)
	clear(sp.containers)
}

// space returns what is known of init's pid namespace, new if nothing is.
func (r *Registry) space(init *initpid.Init) (*space, error) {
	if sp := r.known(init); sp != nil {
		return sp, nil
	}
	started, err := host.StartTime(r.proc, init.PID)
	var offset time.Duration
	if err == nil {
		offset, err = host.BootOffset(r.proc, strconv.Itoa(init.PID))
	}
	if err != nil {
		if isOurs(err) {
			return nil, err
		}
		return nil, fmt.Errorf("init of pid namespace %d: %w: %w", init.NS, NoInit, err)
	}
	sp, old := r.insert(&space{
		registry: r, ns: init.NS, id: init.ID, init: init.PID, host: init.Host,
		started: started, bootOffset: offset - r.bootOffset,
		callers: map[string]*membership{}, containers: map[identity]*state{},
	}, init.Owner)
	if old != nil {
		old.end()
	}
	r.evict(sp.owner)
	return sp, nil
}
