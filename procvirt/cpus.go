package procvirt

import (
	"fmt"

	"vprocfs/procvirt/cgroup"
)

// cpuView is the CPUs that a container sees, and its age.
type cpuView struct {
	// age is the time since the container's init started, in nanoseconds.
	age int64
	// visible are the CPUs that the container sees.
	visible cgroup.CPUs
	// last is the highest CPU that the container may run on. A quota may leave it
	// out of visible.
	last int
	// hostCPUs is how many CPUs the host may have.
	hostCPUs int
}

func (v *cpuView) reset() {
	v.visible.Clear()
	*v = cpuView{visible: v.visible}
}

// gather reads the age and the CPUs. It needs sourceCPU.
func (v *cpuView) gather(c *container, x *scratch) error {
	cfg := &c.views.cfg
	v.age = max(cfg.Now()-c.space.started, 0)
	v.hostCPUs = c.views.hostCPUs
	quota := 0
	var err error
	if !cfg.IgnoreQuota {
		if quota, x.buf, err = c.cpu.Quota(x.buf); err != nil {
			return err
		}
	}
	if x.buf, err = c.cpu.Effective(&v.visible, x.buf); err != nil {
		return err
	}
	if v.visible.Count() == 0 {
		if x.buf, err = c.views.readHost(onlinePath, x.buf); err != nil {
			return err
		}
		if err := v.visible.Parse(x.buf); err != nil {
			return err
		}
		if v.visible.Count() == 0 {
			return fmt.Errorf("no CPU is online")
		}
	}
	v.last = v.visible.Max()
	if quota > 0 {
		v.visible.Truncate(quota)
	}
	return nil
}

// LastCPU returns the number of the highest CPU that the subject may run on,
// which is the highest of its possible ones. ok is false where the subject has no
// view of its own, and a Reason is counted for CPUPossible. The only error is
// ErrCold, as Append's.
func (v *Views) LastCPU(s *Subject, wait bool) (cpu int, ok bool, err error) {
	x := v.scratch.Get().(*scratch)
	defer v.scratch.Put(x)
	f := v.File(34)
	text, err := v.content(x.groups[:0], f, s, x, wait)
	switch {
	case err == nil:
		var cpus cgroup.CPUs
		if err := cpus.Parse(text); err != nil {
			return 0, false, err
		}
		return cpus.Max(), true, nil
	case err == ErrCold:
		return 0, false, ErrCold
	}
	v.NoteFallback(f, reasonOf(err), err)
	return 0, false, nil
}
