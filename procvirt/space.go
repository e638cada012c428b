package procvirt

import (
	"strings"
	"sync"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/held"
)

// space is what is known of one pid namespace.
type space struct {
	id      uint64 // NS_GET_ID, or 0
	init    int
	started int64 // of the init, in nanoseconds since the host booted
	host    bool  // the daemon's own

	// mu is held for reading while files are read, and for writing while they
	// are opened and closed: a descriptor must not be closed, and its number
	// given to another file, under a reader.
	mu      sync.RWMutex
	dropped bool
	// groups is the init's /proc/PID/cgroup, nil in the host's space and where
	// nothing is open. Where the first thread of the init has exited, it is
	// another thread's.
	groups     *held.File
	callers    map[string]*membership // by the text of the caller's /proc/PID/cgroup
	containers map[string]*container  // by their places
}

// is tells whether sp is the subject's.
func (sp *space) is(s *Subject) bool { return sp.init == s.Init && sp.id == s.ID }

// membership is the decision which container a caller in certain groups is in.
type membership struct {
	container *container
	// init is the text of the init's groups that it rests on.
	init []byte
	// until is when to look again, on the clock of Config.Now.
	until int64
}

// maxCallers bounds the decisions remembered for one pid namespace: who may
// make groups of its own can move through any number of them, each with a path
// of up to 4 KiB in every hierarchy.
const (
	maxCallers     = 64
	maxCallersHost = 4096
)

// maxOpen bounds the containers of one pid namespace that have files open. With
// cgroup's bound of levels that keeps one container, whatever groups it makes for
// itself, from taking the descriptors of all.
const (
	maxOpen     = 8
	maxOpenHost = 256
)

// find returns the container of a caller, and nil where the decision has to be
// made first. It reads the init's groups only where they are not the caller's
// own: where they are, the container is that group, or one above it that the
// init moved up to since, which the next look brings to light.
func (sp *space) find(v *Views, caller []byte, x *scratch) *container {
	m := sp.callers[string(caller)]
	if m == nil || v.cfg.Now() > m.until {
		return nil
	}
	if sp.groups == nil || string(m.init) == string(caller) {
		return m.container
	}
	init, err := sp.groups.Read(x.groups)
	if err != nil || string(init) != string(m.init) {
		return nil
	}
	x.groups = init
	return m.container
}

// decide finds the container of a caller, by the init's groups as they are now.
// The caller holds sp.mu for writing.
func (sp *space) decide(v *Views, caller []byte) (*membership, error) {
	var init []byte
	if !sp.host && v.cfg.Policy != cgroup.Caller {
		var err error
		if init, err = sp.readInit(v); err != nil {
			return nil, err
		}
	}
	fresh := &container{views: v, space: sp, pace: make([]pace, len(v.files)), places: map[cgroup.Controller]cgroup.Place{}, failed: map[cgroup.Controller]error{}}
	var key strings.Builder
	for _, c := range cgroup.Controllers() {
		p, err := v.mounts.Locate(c, v.cfg.Policy, caller, init)
		if err != nil {
			fresh.failed[c] = err
			key.WriteString(err.Error())
		}
		fresh.places[c] = p
		key.WriteString(p.Path)
		key.WriteByte('\n')
	}
	c := sp.containers[key.String()]
	switch {
	case c == nil:
		c = fresh
		v.recall(sp, c, key.String())
		sp.containers[key.String()] = c
	case sp.callers[string(caller)] != nil && c.incomplete():
		c.close() // what was missing may be there by now
	}
	sp.makeRoom(c)
	m := &membership{container: c, init: init}
	sp.callers[string(caller)] = m
	return m, nil
}

// readInit reads the init's groups and keeps the file open. It is opened anew each
// time: since the last time the first thread of the init may have exited, and its
// file, which can still be read, tells nothing then.
func (sp *space) readInit(v *Views) ([]byte, error) {
	sp.groups.Close()
	sp.groups = nil
	f, err := cgroup.OpenInitMembership(&v.opener, v.proc, sp.init)
	if err != nil {
		return nil, err
	}
	sp.groups = f
	return f.Read(nil)
}

// makeRoom forgets decisions, and containers that no decision leads to, where
// there are too many.
func (sp *space) makeRoom(keep *container) {
	limit := maxCallers
	if sp.host {
		limit = maxCallersHost
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
	used := map[*container]bool{keep: true}
	for _, m := range sp.callers {
		used[m.container] = true
	}
	for key, c := range sp.containers {
		if !used[c] {
			c.end()
			delete(sp.containers, key)
		}
	}
}

// closeOthers closes files of containers other than keep where too many have some
// open.
func (sp *space) closeOthers(keep *container) {
	limit := maxOpen
	if sp.host {
		limit = maxOpenHost
	}
	n := 0
	for _, c := range sp.containers {
		if c != keep && c.isOpen() {
			if n++; n >= limit {
				c.close()
			}
		}
	}
}

// release closes all files, and keeps what was shown.
func (sp *space) release() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.groups.Close()
	sp.groups = nil
	for _, c := range sp.containers {
		c.close()
	}
	clear(sp.callers) // they rest on sp.groups
}

func (sp *space) drop() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.dropped = true
	sp.groups.Close()
	for _, c := range sp.containers {
		c.end()
	}
	clear(sp.callers)
	clear(sp.containers)
}
