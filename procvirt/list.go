// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"vprocfs/initpid"
	"vprocfs/procvirt/cgroup"
)

// ContainerInfo is what a Registry knows of a container, and what the container is shown.
type ContainerInfo struct {
	// Init is the pid of its init, Namespace the inode number of its pid namespace and
	// Owner that of the outermost one it is in. Host says that it is the daemon's own.
	Init      int    `json:"init"`
	Namespace uint64 `json:"pid_namespace"`
	Owner     uint64 `json:"owner"`
	Host      bool   `json:"host,omitempty"`
	// Group is its control group: that of the memory controller, or another one's.
	Group string `json:"group"`
	// Uptime is in seconds, Memory in bytes. What cannot be told is 0.
	Uptime          float64 `json:"uptime"`
	CPUs            int     `json:"cpus"`
	Memory          uint64  `json:"memory"`
	MemoryAvailable uint64  `json:"memory_available"`
	// Load is the load averages, empty if the container has not asked for them.
	Load string `json:"load,omitempty"`
	// Reads are the contents that were made for it, PerSecond those of the last one to two
	// seconds, Slow those that took 100 ms or longer, Fallbacks those that were the host's.
	Reads     uint64  `json:"reads"`
	PerSecond float64 `json:"reads_per_second"`
	Slow      uint64  `json:"slow"`
	Fallbacks uint64  `json:"fallbacks"`
	// Delayed are the reads of all containers of the same owner that had to wait because it
	// read too much.
	Delayed uint64 `json:"delayed"`
	// OpenFiles are the files of control groups that are open for all containers of the
	// same owner.
	OpenFiles int          `json:"open_files"`
	Policy    []PolicyWord `json:"policy,omitempty"`
}

const (
	// numbersFresh is how long the numbers that a list has of a container are taken for
	// those of the next list.
	numbersFresh = time.Second
	// renewTime is how long a list may read numbers of containers that it has older ones
	// of.
	renewTime = 20 * time.Millisecond
)

// List returns all containers that are known. It reads what each is shown, some 30 us for a
// container, and counts nothing. If that takes too long the numbers of some are those of a
// former List; the oldest are read first. It is safe for concurrent use.
func (r *Registry) List() []ContainerInfo {
	states := r.holdAll()
	defer letGo(states)
	slices.SortFunc(states, func(a, b *state) int { return cmp.Compare(a.numbersAt(), b.numbersAt()) })
	begun := time.Now()
	all := make([]ContainerInfo, len(states))
	for i, s := range states {
		at := s.numbersAt()
		if at == 0 || r.cfg.Now()-at >= int64(numbersFresh) && time.Since(begun) < renewTime {
			s.numbers.Store(r.readNumbers(s))
		}
		all[i] = r.describe(s)
		n := s.numbers.Load()
		all[i].CPUs, all[i].Memory, all[i].MemoryAvailable = n.cpus, n.memory, n.available
	}
	return all
}

// Counters is List without what the containers are shown, for those who come often. It reads
// no files.
func (r *Registry) Counters() []ContainerInfo {
	states := r.holdAll()
	defer letGo(states)
	all := make([]ContainerInfo, len(states))
	for i, s := range states {
		all[i] = r.describe(s)
	}
	return all
}

// listNumbers are the numbers of a container that have to be read.
type listNumbers struct {
	at                int64 // when, on the clock of Config.Now
	cpus              int
	memory, available uint64
}

// numbersAt returns when the numbers of a list were read last, 0 if they never were.
func (s *state) numbersAt() int64 {
	if n := s.numbers.Load(); n != nil {
		return n.at
	}
	return 0
}

// holdAll returns all containers. letGo must follow.
func (r *Registry) holdAll() (all []*state) {
	for _, sp := range r.all() {
		all = append(all, sp.hold()...)
	}
	return all
}

func letGo(states []*state) {
	for _, s := range states {
		s.users.Add(-1)
	}
}

// hold returns the containers of sp. Their users have grown by one.
func (sp *space) hold() []*state {
	sp.mu.RLock()
	defer sp.mu.RUnlock()
	all := make([]*state, 0, len(sp.containers))
	for _, s := range sp.containers {
		s.users.Add(1)
		all = append(all, s)
	}
	return all
}

// asked returns the memory to look at a container that the caller holds. done must be called.
func (r *Registry) asked(s *state) (c *Container, done func()) {
	sp := s.space
	c = r.requests.Get().(*Container)
	c.state, c.turn, c.now, c.pid = s, patient{}, r.cfg.Now(), sp.init
	c.init = initpid.Init{PID: sp.init, NS: sp.ns, ID: sp.id, Owner: sp.owner.id, Host: sp.host}
	return c, func() {
		c.state = nil // whose hold is the caller's
		c.Release()
	}
}

// readNumbers reads what a container is shown.
func (r *Registry) readNumbers(s *state) *listNumbers {
	c, done := r.asked(s)
	defer done()
	n := &listNumbers{at: c.now, cpus: countCPUs(c.peek("cpu/online"))}
	n.memory, n.available = memoryOf(c.peek("meminfo"))
	return n
}

// describe says of a container that the caller holds what needs no file.
func (r *Registry) describe(s *state) ContainerInfo {
	c, done := r.asked(s)
	defer done()
	sp := s.space
	info := ContainerInfo{
		Init: sp.init, Namespace: sp.ns, Owner: sp.owner.id, Host: sp.host,
		Uptime: float64(max(c.now-sp.started+int64(sp.bootOffset), 0)) / 1e9,
		Reads:  s.reads.Total(), PerSecond: s.reads.PerSecond(c.now),
		Slow: s.slow.Load(), Fallbacks: s.fallbacks.Load(), Delayed: sp.owner.delayed.Load(), OpenFiles: sp.owner.opener.Count(),
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	info.Group = s.name()
	if p := s.known.Load(); s.failed[cgroup.Memory] == nil || s.failed[cgroup.CPU] == nil {
		info.Policy = p.list(s.policyPlace().Dirs)
	}
	if s.load != nil {
		var n loadAverages
		if n.gather(c) == nil {
			text := bytes.Fields(n.append(nil))
			info.Load = string(bytes.Join(text[:3], []byte(" ")))
		}
	}
	return info
}

// peek returns the text of a file as c is shown it, nil if that is the host's. It opens
// what it needs.
func (c *Container) peek(name string) []byte {
	for i := range c.registry.files {
		f := &c.registry.files[i]
		if f.String() != name {
			continue
		}
		text, err := c.warmContent(nil, f)
		if needsOpening(err) {
			text, err = c.openContent(nil, f, err)
		}
		if err != nil {
			return nil
		}
		return text
	}
	return nil
}

// name returns the path of the container's control group. The caller holds mu.
func (s *state) name() string {
	for _, ctl := range []cgroup.Controller{cgroup.Memory, cgroup.CPU, cgroup.CPUAcct} {
		if s.failed[ctl] == nil {
			return s.places[ctl].Path
		}
	}
	return ""
}

func countCPUs(text []byte) int {
	var set cgroup.CPUs
	if set.Parse(text) != nil {
		return 0
	}
	return set.Count()
}

// memoryOf returns MemTotal and MemAvailable of a meminfo in bytes.
func memoryOf(text []byte) (total, available uint64) {
	if text == nil {
		return 0, 0
	}
	var h hostMemory
	h.parse(text)
	return h.total, h.available
}

// OwnerRate is how much an outermost container, with all in it, reads.
type OwnerRate struct {
	Owner     uint64  `json:"owner"` // the inode number of its pid namespace
	Init      int     `json:"init"`
	Group     string  `json:"group"`
	Reads     uint64  `json:"reads"`
	PerSecond float64 `json:"reads_per_second"`
	Delayed   uint64  `json:"delayed"`
}

// Top returns the n outermost containers that read most in the last one to two seconds.
func (r *Registry) Top(n int) []OwnerRate {
	now := r.cfg.Now()
	all, spaces := r.rates(now)
	slices.SortFunc(all, func(a, b OwnerRate) int { return cmp.Compare(b.PerSecond, a.PerSecond) })
	all = all[:min(n, len(all))]
	for i := range all {
		sp := spaces[all[i].Owner]
		if sp == nil {
			continue
		}
		all[i].Init = sp.init
		for _, s := range sp.hold() {
			s.mu.RLock()
			all[i].Group = s.name()
			s.mu.RUnlock()
			s.users.Add(-1)
		}
	}
	return all
}

// rates returns the rates of all owners, and for each the outermost of its spaces.
func (r *Registry) rates(now int64) (all []OwnerRate, spaces map[uint64]*space) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all, spaces = []OwnerRate{}, map[uint64]*space{}
	for id, o := range r.owners {
		all = append(all, OwnerRate{Owner: id, Reads: o.reads.Total(), PerSecond: o.reads.PerSecond(now), Delayed: o.delayed.Load()})
		for sp := range o.spaces {
			if spaces[id] == nil || sp.ns == id {
				spaces[id] = sp
			}
		}
	}
	return all, spaces
}

// Layout returns the layout of the host's control groups: v2, v1 or hybrid.
func (r *Registry) Layout() string { return r.mounts.Layout() }
