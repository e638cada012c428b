package procvirt

import (
	"strconv"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/loadavg"
)

func loadavgFile() File {
	return File{
		Path: "proc/loadavg", Node: 20, Mode: 0o444, Size: SizePage,
		needs:   sourceLoad,
		numbers: func() numbers { return new(loadAverages) },
	}
}

// loadAverages is what /proc/loadavg shows.
type loadAverages struct{ loadavg.State }

func (n *loadAverages) reset() { *n = loadAverages{} }

func (n *loadAverages) gather(c *container, _ *scratch) error {
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

// running is how many threads of the container run. Who reads is one of them, as
// on a machine, whatever the last sample has seen: it waits for the answer.
func running(s *loadavg.State) int { return max(s.Running, 1) }

// track has the container sampled. The caller holds the space's mu for writing.
func (c *container) track(v *Views, sp *space) error {
	if v.loads == nil {
		return SwitchedOff
	}
	if _, ok := c.load.Peek(); ok {
		return nil
	}
	from := c.load.State()
	g := &group{views: v, place: c.places[cgroup.CPUAcct], kept: c.kept}
	before := false
	if c.load == nil {
		from, before = decodeLoad(c.kept.Load())
	}
	if c.load == nil && !before {
		// The CPU time since the init's start stands for the samples since.
		if err := c.openCPU(v); err != nil {
			return err
		}
		x := v.scratch.Get().(*scratch)
		defer v.scratch.Put(x)
		var up uptime
		if err := up.gather(c, x); err != nil {
			return err
		}
		from.At = v.cfg.Steady() - up.age
		from.Used = c.account.before() * 1000
	}
	if !sp.host {
		t := v.counters.Get().(*cgroup.ThreadCounter)
		g.level = t.Level(sp.init)
		v.counters.Put(t)
	}
	tracked, err := v.loads.Track(g, from)
	if err != nil {
		return err
	}
	c.load = tracked
	return nil
}

// group is a loadavg.Group.
type group struct {
	views *Views
	place cgroup.Place
	// level is how many pid namespaces the container's is below the daemon's, -1
	// where the kernel does not tell.
	level int
	kept  *shm.Record
}

// Save is called for the state after each sample, one call at a time.
func (g *group) Save(s loadavg.State) {
	if g.kept != nil {
		g.kept.Commit(appendLoad(g.kept.Buffer(), &s))
	}
}

func (g *group) Used() (uint64, error) {
	t := g.views.counters.Get().(*cgroup.ThreadCounter)
	defer g.views.counters.Put(t)
	return t.Usage(g.place)
}

func (g *group) Count(last loadavg.Counts, limit int) (loadavg.Counts, int, error) {
	v := g.views
	t := v.counters.Get().(*cgroup.ThreadCounter)
	defer v.counters.Put(t)
	x := v.scratch.Get().(*scratch)
	defer v.scratch.Put(x)
	var err error
	if x.host, err = v.readHost("proc/loadavg", x.host); err != nil {
		return last, 1, err
	}
	hostLast, err := host.ParseLastPID(x.host)
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
