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

// PressurePlace is where a trigger for a file of /proc/pressure is set.
type PressurePlace struct {
	// File is the path of the file.
	File string
	// Group is the control group that it tells of, "" if it is the host's own file.
	Group string
	// Inode is the number of the group's directory: another group may have the path
	// one day.
	Inode uint64
	// Namespace is the caller's pid namespace, 0 if that is the daemon's own, and
	// Owner the outermost container that it belongs to.
	Namespace, Owner uint64
}

// PressurePlace finds the file that thread pid is shown as f. It is the host's own if
// the container's group is the root of the tree, or this host's groups do not count
// stalls. If the thread is shown the host's file because its group cannot be told, that
// is an error: ENODEV if the group was removed, EOPNOTSUPP else.
func (r *Registry) PressurePlace(pid int, f *File, t Turn) (PressurePlace, error) {
	c, err := r.acquire(pid, t)
	if err != nil {
		return PressurePlace{}, noPlace(err)
	}
	defer c.Release()
	at := PressurePlace{File: filepath.Join(r.cfg.Root, f.Path), Owner: c.init.Owner}
	if !c.init.Host {
		at.Namespace = c.init.NS
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
		return PressurePlace{}, noPlace(err)
	}
	at.Group, at.Inode = p.Dirs[0], c.id[cgroup.Pressure]
	if !r.disabled.Load() {
		at.File = cgroup.PressureFile(p, resourceOf(f.needs))
	}
	return at, nil
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
