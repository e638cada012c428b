// SPDX-License-Identifier: Apache-2.0

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
	v.age = max(c.registry.cfg.Now()-c.space.started, 0)
	v.hostCPUs = c.registry.hostCPUs
	var err error
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
	if v.visible.Count() == 1 {
		return nil // no quota hides the only CPU
	}
	most, err := c.mostCPUs()
	if most > 0 {
		v.visible.Truncate(most)
	}
	return err
}

// mostCPUs returns how many CPUs quota or request let the container see, 0 for all.
func (c *Container) mostCPUs() (most int, err error) {
	rule := c.policy.cpus(&c.registry.cfg)
	if rule == cpuCPUSet {
		return 0, nil
	}
	most, c.buf, err = c.cpu.Quota(c.buf)
	if err == nil && most == 0 && rule == cpuRequest {
		most, c.buf, err = c.request.Read(c.buf)
	}
	return most, err
}
