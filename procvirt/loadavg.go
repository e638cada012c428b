// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"strconv"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/loadavg"
)

const loadavgNode = 20

func loadavgFile() File {
	return File{
		Path: "proc/loadavg", Node: loadavgNode, Mode: 0o444, Size: SizePage,
		needs:   sourceLoad,
		numbers: func() numbers { return new(loadAverages) },
	}
}

// loadAverages is what /proc/loadavg shows.
type loadAverages struct{ loadavg.State }

func (n *loadAverages) reset() { *n = loadAverages{} }

func (n *loadAverages) gather(c *Container) error {
	var ok bool
	if n.State, ok = c.load.Read(); !ok {
		return errNotOpen
	}
	return nil
}

// append writes /proc/loadavg (fs/proc/loadavg.c).
func (n *loadAverages) append(dst []byte) []byte {
	for _, a := range n.Averages {
		a += loadavg.One / 200
		dst = appendHundredths(dst, a>>loadavg.Shift*100+a%loadavg.One*100>>loadavg.Shift)
		dst = append(dst, ' ')
	}
	dst = strconv.AppendInt(dst, int64(running(&n.State)), 10)
	dst = append(dst, '/')
	dst = strconv.AppendInt(dst, int64(max(n.Total, running(&n.State))), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(max(n.LastPID, 1)), 10)
	return append(dst, '\n')
}

// running is how many threads of the container run. The reader is one of them, as
// on a machine, whatever the last sample has seen: it waits for the answer.
func running(s *loadavg.State) int { return max(s.Running, 1) }

// track has the container sampled. The caller holds mu for writing.
func (s *state) track() error {
	r := s.registry
	p, err := s.place(cgroup.CPUAcct)
	if err != nil {
		return err
	}
	from, known := s.load.State(), s.load != nil
	g := &sampled{registry: r, place: p, record: s.record}
	if !known {
		from, known = decodeLoad(s.record.Load())
	}
	if !known {
		// The CPU time since the init's start stands for the samples since.
		if err := s.openSource(sourceCPU); err != nil {
			return err
		}
		c := newContainer(r)
		c.state, c.policy = s, s.known.Load()
		var up uptime
		if err := up.gather(c); err != nil {
			return err
		}
		from.At = r.cfg.Steady() - up.age
		from.Used = s.account.before() * 1000
	}
	if !s.space.host {
		t := r.counters.Get().(*threadCounter)
		defer r.counters.Put(t)
		g.level = t.Level(s.space.init)
	}
	tracked, err := r.loads.Track(g, from)
	if err != nil {
		return err
	}
	s.load = tracked
	return nil
}

// threadCounter is a ThreadCounter and memory for the host's loadavg.
type threadCounter struct {
	*cgroup.ThreadCounter
	buf []byte
}

// sampled is a loadavg.Group.
type sampled struct {
	registry *Registry
	place    cgroup.Place
	// level is how many pid namespaces the container's is below the daemon's, -1
	// if the kernel does not tell.
	level  int
	record *shm.Record
}

// Save is called for the state after each sample, one call at a time.
func (g *sampled) Save(s loadavg.State) {
	if g.record != nil {
		g.record.Commit(appendLoad(g.record.Buffer(), &s))
	}
}

func (g *sampled) Used() (uint64, error) {
	t := g.registry.counters.Get().(*threadCounter)
	defer g.registry.counters.Put(t)
	return t.Usage(g.place)
}

func (g *sampled) Count(last loadavg.Counts, limit int) (loadavg.Counts, int, error) {
	r := g.registry
	t := r.counters.Get().(*threadCounter)
	defer r.counters.Put(t)
	var err error
	if t.buf, err = r.readHost("proc/loadavg", t.buf); err != nil {
		return last, 1, err
	}
	hostLast, err := host.ParseLastPID(t.buf)
	if err != nil {
		return last, 1, err
	}
	n, err := t.Count(g.place, hostLast, limit)
	if err != nil {
		return last, n.Looks + 1, err
	}
	last.Running, last.Blocked, last.Total = n.Running, n.Blocked, n.Total
	if n.Newest != 0 && g.level >= 0 && (last.Newest == 0 || cgroup.Newer(n.Newest, last.Newest, hostLast)) {
		n.Looks++
		if pid := t.PID(n.Newest, g.level); pid != 0 {
			last.Newest, last.LastPID = n.Newest, pid
		}
	}
	return last, n.Looks + 1, nil
}
