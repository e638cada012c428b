package procvirt

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
)

// incompleteRecheck is how soon a container is looked at again, one of whose
// controllers is only enabled above it: it may be enabled for the container
// itself at any time, and nothing tells.
const incompleteRecheck = time.Second

// container is one container's control groups, with the files that were needed
// so far held open, and the account of its CPU rows.
type container struct {
	places map[cgroup.Controller]cgroup.Place
	failed map[cgroup.Controller]error

	memory *cgroup.MemoryFiles
	huge   *cgroup.HugeFiles
	cpu    *cgroup.CPUFiles
	// Why there is nothing to open, where that is settled. It stands until
	// the next look at the container's groups.
	memoryNot, cpuNot error

	// slow marks files whose gathering took long the last time.
	slow [numFiles]atomic.Bool

	account account
}

// defaultSlowAfter is how long gathering may hold up the other containers' readers. It
// takes microseconds where the kernel has the numbers at hand; but memory.stat of
// a group with thousands of descendants has to be summed up first.
const defaultSlowAfter = 2 * time.Millisecond

// gather fills w with what f needs, from open files. Without wait it answers
// ErrCold where that took long the last time.
func (c *container) gather(v *Views, f File, sp *space, x *scratch, wait bool) error {
	if !wait && c.slow[f].Load() {
		return ErrCold
	}
	start := time.Now()
	err := fileSpecs[f].gather(v, c, sp, &x.view, x)
	if slow := time.Since(start) > v.slowAfter; slow != c.slow[f].Load() {
		c.slow[f].Store(slow)
	}
	return err
}

// incomplete tells whether a controller is enabled only above the container.
func (c *container) incomplete() bool {
	return c.memory != nil && c.memory.Incomplete || c.cpu != nil && c.cpu.Incomplete
}

// open opens what f needs. The caller holds the space's mu for writing.
func (c *container) open(v *Views, f File) error {
	if f == Meminfo {
		c.memoryNot = c.openMemory(v)
		return c.memoryNot
	}
	c.cpuNot = c.openCPU(v)
	return c.cpuNot
}

func (c *container) openMemory(v *Views) error {
	if c.memory != nil {
		return nil
	}
	if err := c.failed[cgroup.Memory]; err != nil {
		return err
	}
	p := c.places[cgroup.Memory]
	if p.Root {
		return RootCgroup
	}
	// There is no place for hugetlb where the host has no such controller.
	huge, err := cgroup.OpenHugeTLB(&v.opener, c.places[cgroup.HugeTLB], filepath.Join(v.cfg.Root, "sys"))
	if err != nil {
		return err
	}
	memory, err := cgroup.OpenMemory(&v.opener, p)
	if err != nil {
		huge.Close()
		return err
	}
	c.memory, c.huge = memory, huge
	return nil
}

func (c *container) openCPU(v *Views) error {
	if c.cpu != nil {
		return nil
	}
	if err := c.failed[cgroup.CPUAcct]; err != nil {
		return err
	}
	p := cgroup.CPUPlaces{
		CPU:     c.places[cgroup.CPU],
		CPUAcct: c.places[cgroup.CPUAcct],
		CPUSet:  c.places[cgroup.CPUSet],
	}
	if p.CPUAcct.Root {
		return RootCgroup
	}
	var err error
	c.cpu, err = cgroup.OpenCPU(&v.opener, p)
	return err
}

// missing is why the files of a controller are not open: nobody needed them yet,
// or there are none.
func missing(not error) error {
	if not == RootCgroup || errors.Is(not, cgroup.ErrNoController) || errors.Is(not, cgroup.ErrOutside) || errors.Is(not, cgroup.ErrTooDeep) {
		return not
	}
	return ErrCold
}

// isOpen tells whether any files are open.
func (c *container) isOpen() bool { return c.memory != nil || c.cpu != nil }

// close closes the files. What was shown last is kept.
func (c *container) close() {
	c.memory.Close()
	c.cpu.Close()
	c.huge.Close()
	c.memory, c.cpu, c.huge = nil, nil, nil
}

// forget closes files of groups that were removed. Groups of the same name are
// new ones, whose counters begin anew. In the host's own pid namespace, where no
// init ends with them, they are another container.
func (c *container) forget(sp *space) {
	c.close()
	if sp.host {
		c.account.reset()
	} else {
		c.account.restart()
	}
}

// gatherCPUs reads the age and the visible CPUs.
func (v *Views) gatherCPUs(c *container, sp *space, w *View, x *scratch) error {
	w.Age = max(v.cfg.Now()-sp.started, 0)
	quota := 0
	var err error
	if !v.cfg.IgnoreQuota {
		if quota, x.buf, err = c.cpu.Quota(x.buf); err != nil {
			return err
		}
	}
	if x.buf, err = c.cpu.Effective(&w.Visible, x.buf); err != nil {
		return err
	}
	if w.Visible.Count() == 0 {
		if x.buf, err = v.host.Read(host.Online, x.buf); err != nil {
			return err
		}
		if err := w.Visible.Parse(x.buf); err != nil {
			return err
		}
		if w.Visible.Count() == 0 {
			return fmt.Errorf("no CPU is online")
		}
	}
	if quota > 0 {
		w.Visible.Truncate(quota)
	}
	return nil
}

func (v *Views) gatherUptime(c *container, sp *space, w *View, x *scratch) error {
	if c.cpu == nil {
		return missing(c.cpuNot)
	}
	if err := v.gatherCPUs(c, sp, w, x); err != nil {
		return err
	}
	used, buf, err := c.cpu.Usage(x.buf)
	x.buf = buf
	if err != nil {
		return err
	}
	w.Busy = c.account.busy(w.Age, used, w.Visible.Count())
	return nil
}

func (v *Views) gatherStat(c *container, sp *space, w *View, x *scratch) error {
	if c.cpu == nil {
		return missing(c.cpuNot)
	}
	if err := v.gatherCPUs(c, sp, w, x); err != nil {
		return err
	}
	var err error
	if x.buf, err = c.cpu.Time(&x.time, x.buf); err != nil {
		return err
	}
	if x.host, err = v.host.Read(host.Stat, x.host); err != nil {
		return err
	}
	w.Host = x.host
	c.account.step(w, &x.time)
	return nil
}

func (v *Views) gatherMeminfo(c *container, _ *space, w *View, x *scratch) error {
	if c.memory == nil {
		return missing(c.memoryNot)
	}
	var err error
	if x.host, err = v.host.Read(host.Meminfo, x.host); err != nil {
		return err
	}
	w.Host = x.host
	w.Huge = w.Huge[:0]
	var h hostMemory
	h.parse(w.Host)
	if h.hugetlb > 0 {
		// Hosts without huge pages, most of them, are spared these reads.
		if w.Huge, x.buf, err = c.huge.Read(w.Huge, x.buf); err != nil {
			return err
		}
	}
	x.buf, err = c.memory.Read(&w.Memory, x.buf)
	return err
}
