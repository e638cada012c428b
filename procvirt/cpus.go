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
	// last is the highest CPU that the container may run on. A quota or a request
	// may leave it out of visible.
	last int
	// hostCPUs is how many CPUs the host may have.
	hostCPUs int
}

func (v *cpuView) reset() {
	v.visible.Clear()
	*v = cpuView{visible: v.visible}
}

// gather reads the age and the CPUs. It needs sourceCPU, and sourceRequest if the policy
// does.
func (v *cpuView) gather(c *Container) error {
	cfg := &c.registry.cfg
	v.age = max(cfg.Now()-c.space.started, 0)
	v.hostCPUs = c.registry.hostCPUs
	most, rule := 0, c.policy.cpus(cfg)
	var err error
	if rule != cpuCPUSet {
		if most, c.buf, err = c.cpu.Quota(c.buf); err != nil {
			return err
		}
	}
	if rule == cpuRequest && most == 0 {
		if most, c.buf, err = c.request.Read(c.buf); err != nil {
			return err
		}
	}
	if c.buf, err = c.cpu.Effective(&v.visible, c.buf); err != nil {
		return err
	}
	if v.visible.Count() == 0 {
		if c.buf, err = c.registry.readHost(onlinePath, c.buf); err != nil {
			return err
		}
		if err := v.visible.Parse(c.buf); err != nil {
			return err
		}
		if v.visible.Count() == 0 {
			return fmt.Errorf("no CPU is online")
		}
	}
	v.last = v.visible.Max()
	if most > 0 {
		v.visible.Truncate(most)
	}
	return nil
}
