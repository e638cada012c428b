package procvirt

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
)

// resourceOf is what the files of need n tell of.
func resourceOf(n needs) cgroup.Resource { return cgroup.Resource(n - needCPUPressure) }

func (c *container) openPressure(v *Views, n needs) error {
	switch err := c.failed[cgroup.Pressure]; {
	case errors.Is(err, cgroup.ErrNoController):
		return NoController // so all containers of the host: it must not allocate
	case err != nil:
		return err
	}
	p := c.places[cgroup.Pressure]
	if p.Root {
		return RootCgroup
	}
	return c.stalls.Open(&v.opener, p, resourceOf(n))
}

// gatherPressure reads the control group's own text.
func gatherPressure(n needs) func(*Views, *container, *space, *View, *scratch) error {
	r := resourceOf(n)
	return func(_ *Views, c *container, _ *space, w *View, x *scratch) (err error) {
		if !c.stalls.Has(r) {
			return c.missing(n)
		}
		if x.buf, err = c.stalls.Read(r, x.buf); err != nil {
			return err
		}
		w.Stalls = x.buf
		return nil
	}
}

// appendPressure makes a file of /proc/pressure: a control group's has the same
// format (psi_show, kernel/sched/psi.c).
func appendPressure(dst []byte, w *View) []byte { return append(dst, w.Stalls...) }

// HasPressure tells whether the host has /proc/pressure.
func (v *Views) HasPressure() bool { return v.host.Has(fileSpecs[PressureCPU].host) }

// PressurePlace is where a trigger for a file of /proc/pressure is set.
type PressurePlace struct {
	// File is the path of the file.
	File string
	// Group is the control group that it tells of, "" where it is the host's
	// own file.
	Group string
}

// PressurePlace finds the file that Append shows as f, afresh. It is the host's own
// where the subject's group is the root of the tree, or this host's groups do not
// count stalls. Where Append gives the host's file for want of something better,
// it fails: ErrOutside, ErrTooDeep, ErrRemoved, NoInit and others, none of which
// have an errno that a container could make sense of.
func (v *Views) PressurePlace(f File, s *Subject) (PressurePlace, error) {
	host := v.HostPressurePlace(f)
	sp, err := v.space(s)
	if err != nil {
		return host, err
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.dropped {
		return host, fmt.Errorf("pid namespace %d: %w", s.NS, NoInit)
	}
	m, err := sp.decide(v, s.Groups)
	if err != nil {
		return host, err
	}
	m.until = v.cfg.Now() + int64(v.recheck(m.container))
	p, err := m.container.places[cgroup.Pressure], m.container.failed[cgroup.Pressure]
	switch {
	case errors.Is(err, cgroup.ErrNoController):
		return host, nil
	case err != nil:
		return host, err
	case p.Root:
		return host, nil
	}
	return PressurePlace{cgroup.PressureFile(p, resourceOf(fileSpecs[f].needs)), p.Dirs[0]}, nil
}

// HostPressurePlace is the host's own file f.
func (v *Views) HostPressurePlace(f File) PressurePlace {
	return PressurePlace{File: filepath.Join(v.proc, f.String())}
}

// IsRemoved tells whether err says that the control group is gone.
func IsRemoved(err error) bool {
	return errors.Is(err, cgroup.ErrRemoved) || errors.Is(err, unix.ENODEV)
}
