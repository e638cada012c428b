package procvirt

import (
	"fmt"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
)

// One gather function for each file. The container's files are open, or it says
// that they are missing.

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
	w.LastCPU = w.Visible.Max()
	if quota > 0 {
		w.Visible.Truncate(quota)
	}
	return nil
}

func (v *Views) gatherUptime(c *container, sp *space, w *View, x *scratch) error {
	if c.cpu == nil {
		return c.missing(needCPU)
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
		return c.missing(needCPU)
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
	w.Load, w.Tracked = c.load.Peek()
	return nil
}

func (v *Views) gatherMeminfo(c *container, _ *space, w *View, x *scratch) error {
	if c.memory == nil {
		return c.missing(needMemory)
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

func (v *Views) gatherCPUInfo(c *container, sp *space, w *View, x *scratch) error {
	if c.cpu == nil {
		return c.missing(needCPU)
	}
	if err := v.gatherCPUs(c, sp, w, x); err != nil {
		return err
	}
	var err error
	if x.host, err = v.host.Read(host.CPUInfo, x.host); err != nil {
		return err
	}
	w.Host = x.host
	w.countPackages()
	return nil
}

func (v *Views) gatherSwaps(c *container, _ *space, w *View, x *scratch) error {
	if c.memory == nil {
		return c.missing(needMemory)
	}
	var err error
	if x.host, err = v.host.Read(host.Meminfo, x.host); err != nil {
		return err
	}
	var h hostMemory
	h.parse(x.host)
	w.HostSwap = h.swap
	if x.host, err = v.host.Read(host.Swaps, x.host); err != nil {
		return err
	}
	w.Host = x.host
	x.buf, err = c.memory.Read(&w.Memory, x.buf)
	return err
}

func (v *Views) gatherDiskstats(c *container, _ *space, w *View, x *scratch) error {
	if c.io == nil {
		return c.missing(needIO)
	}
	var err error
	if x.host, err = v.host.Read(host.Diskstats, x.host); err != nil {
		return err
	}
	w.Host = x.host
	w.Disks, x.buf, err = c.io.Read(w.Disks[:0], x.buf)
	return err
}

// gatherSlabinfo only finds out whether there is a container at all: no control
// group counts slab caches one by one. The memory controller tells, or where the
// host has none, the one that counts CPU time, which every v2 group has.
func (v *Views) gatherSlabinfo(c *container, _ *space, _ *View, _ *scratch) error {
	for _, ctl := range [...]cgroup.Controller{cgroup.Memory, cgroup.CPUAcct} {
		if c.failed[ctl] == nil {
			if c.places[ctl].Root {
				return RootCgroup
			}
			return nil
		}
	}
	return c.failed[cgroup.Memory]
}
