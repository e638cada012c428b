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

func (n *pressure) gather(c *container, x *scratch) (err error) {
	if x.buf, err = c.stalls.Read(resourceOf(n.source), x.buf); err != nil {
		return err
	}
	n.text = x.buf
	return nil
}

func (n *pressure) append(dst []byte) []byte { return append(dst, n.text...) }

// resourceOf returns what the files of source s tell of.
func resourceOf(s sources) cgroup.Resource {
	return cgroup.Resource(bits.TrailingZeros(uint(s / sourceCPUPressure)))
}

func (c *container) openPressure(v *Views, s sources) error {
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
	return c.stalls.Open(&v.opener, p, resourceOf(s))
}

// HasPressure reports whether the host has /proc/pressure.
func (v *Views) HasPressure() bool { return v.host["proc/pressure/cpu"] != nil }

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
func (v *Views) PressurePlace(f *File, s *Subject) (PressurePlace, error) {
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
	return PressurePlace{cgroup.PressureFile(p, resourceOf(f.needs)), p.Dirs[0]}, nil
}

// HostPressurePlace is the host's own file f.
func (v *Views) HostPressurePlace(f *File) PressurePlace {
	return PressurePlace{File: filepath.Join(v.proc, f.String())}
}

// IsRemoved tells whether err says that the control group is gone.
func IsRemoved(err error) bool {
	return errors.Is(err, cgroup.ErrRemoved) || errors.Is(err, unix.ENODEV)
}
