// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
)

func cpuPressureFile() File {
	return pressureFile("proc/pressure/cpu", 40, sourceCPUPressure)
}

func memoryPressureFile() File {
	return pressureFile("proc/pressure/memory", 41, sourceMemoryPressure)
}

func ioPressureFile() File {
	return pressureFile("proc/pressure/io", 42, sourceIOPressure)
}

// irqPressureFile is there since Linux 6.1, if the kernel accounts the time of interrupts.
// It has a line for full alone, and no trigger for some (psi_trigger_create,
// kernel/sched/psi.c).
func irqPressureFile() File {
	return pressureFile("proc/pressure/irq", 43, sourceIRQPressure)
}

func pressureFile(path string, node uint64, needs sources) File {
	return File{
		Path: path, Node: node, Mode: 0o666, Size: SizePage,
		fromHost: true,
		host:     host.Source{Optional: true}, // CONFIG_PSI, and psi=1 if it is off by default
		needs:    needs,
		numbers:  func() numbers { return &pressure{source: needs} },
	}
}

// pressure is what a file of /proc/pressure shows: the text of the control group's
// own file, which has the same format (psi_show, kernel/sched/psi.c).
type pressure struct {
	source sources
	text   []byte
}

func (n *pressure) reset() { *n = pressure{source: n.source} }

func (n *pressure) gather(c *Container) (err error) {
	if c.buf, err = c.stalls.Read(resourceOf(n.source), c.buf); err != nil {
		return err
	}
	n.text = c.buf
	return nil
}

func (n *pressure) append(dst []byte) []byte { return append(dst, n.text...) }

// resourceOf returns what the files of source s tell of.
func resourceOf(s sources) cgroup.Resource {
	return cgroup.Resource(bits.TrailingZeros(uint(s / sourceCPUPressure)))
}

func (s *state) openPressure(source sources) error {
	p, err := s.place(cgroup.Pressure)
	if err != nil {
		return err
	}
	return s.stalls.Open(&s.space.owner.opener, p, resourceOf(source))
}

// HasPressure reports whether the host has /proc/pressure.
func (r *Registry) HasPressure() bool { return r.host["proc/pressure/cpu"] != nil }

// triggerPlace finds the file that the writer of a trigger is shown. It is the host's
// own if the container's group is the root of the tree, or this host's groups do not
// count stalls. If the writer is shown the host's file because its group is not known,
// that is an error: ENODEV if the group was removed, else EOPNOTSUPP.
func (r *Registry) triggerPlace(q TriggerRequest) (TriggerPlace, error) {
	c, err := r.acquire(q.PID, q.Turn)
	if err != nil {
		return TriggerPlace{}, noPlace(err)
	}
	defer c.Release()
	at, err := c.triggerPlace(q.File)
	if err != nil && errors.Is(err, errOtherGroup) {
		if err = c.moveToOtherGroup(); err == nil {
			at, err = c.triggerPlace(q.File)
		}
	}
	if err != nil {
		return TriggerPlace{}, noPlace(err)
	}
	return at, nil
}

// triggerPlace is Registry.triggerPlace if the container's directories are still its.
func (c *Container) triggerPlace(f *File) (TriggerPlace, error) {
	r := c.registry
	at := TriggerPlace{File: filepath.Join(r.cfg.Root, f.Path)}
	hosts, err := c.hostsFile(f)
	if err != nil {
		return at, err
	}
	if !c.init.Host {
		at.Owner = c.init.Owner
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, err := c.place(cgroup.Pressure)
	switch {
	case err == RootCgroup, err == NoController:
		return at, nil
	case err == nil:
		err = c.verify()
	}
	if err != nil {
		return at, err
	}
	at.Group, at.Inode = p.Dirs[0], c.id[cgroup.Pressure]
	if !hosts {
		at.File = cgroup.PressureFile(p, resourceOf(f.needs))
	}
	return at, nil
}

// hostsFile reports whether the container is shown the host's f. That is so if the view is
// switched off for all containers (SIGUSR2), or by the container's policy. The turn has
// blocked.
func (c *Container) hostsFile(f *File) (bool, error) {
	r := c.registry
	if r.disabled.Load() {
		return true, nil
	}
	err := r.withRoom(c.space.owner, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		err := c.openPolicy()
		if err == nil {
			err = c.checkPolicy(f)
		}
		if errors.Is(err, unix.ENODEV) {
			c.closeLocked()
			if err = c.openPolicy(); err == nil {
				err = c.checkPolicy(f)
			}
		}
		return err
	})
	if err == ByPolicy {
		return true, nil
	}
	return false, err
}

// noPlace gives err an errno that a container can make sense of.
func noPlace(err error) error {
	var refused refusal
	switch {
	case errors.As(err, &refused), isOurs(err):
		return err
	case errors.Is(err, cgroup.ErrRemoved), errors.Is(err, errOtherGroup):
		return fmt.Errorf("%w: %w", unix.ENODEV, err)
	}
	return fmt.Errorf("%w: %w", unix.EOPNOTSUPP, err)
}
