package procvirt

import (
	"strconv"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/loadavg"
)

// appendLoadavg makes /proc/loadavg (fs/proc/loadavg.c).
func appendLoadavg(dst []byte, v *View) []byte {
	for _, a := range v.Load.Averages {
		a += loadavg.One / 200
		dst = appendHundredths(dst, a>>loadavg.Shift*100+a%loadavg.One*100>>loadavg.Shift)
		dst = append(dst, ' ')
	}
	dst = strconv.AppendInt(dst, int64(running(v)), 10)
	dst = append(dst, '/')
	dst = strconv.AppendInt(dst, int64(max(v.Load.Total, running(v))), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(max(v.Load.LastPID, 1)), 10)
	return append(dst, '\n')
}

// running is how many threads of the container run. Who reads is one of them, as
// on a machine, whatever the last sample has seen: it waits for the answer.
func running(v *View) int { return max(v.Load.Running, 1) }

func (v *Views) gatherLoadavg(c *container, _ *space, w *View, _ *scratch) error {
	if v.loads == nil {
		return SwitchedOff
	}
	if c.load == nil {
		return c.missing(needLoad)
	}
	if w.Load, w.Tracked = c.load.Read(); !w.Tracked {
		return ErrCold
	}
	return nil
}

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
		if err := v.gatherUptime(c, sp, &x.view, x); err != nil {
			return err
		}
		used, err := g.Used()
		if err != nil {
			return err
		}
		from.At = v.cfg.Steady() - x.view.Age
		from.Used = used - min(x.view.Busy, used)
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
	var hostLast int
	var err error
	if hostLast, x.host, err = v.host.LastPID(x.host); err != nil {
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
