// SPDX-License-Identifier: Apache-2.0

// Package cgroup finds the control groups of a container (cgroups(7)) and reads what
// they say: cgroup v2, v1, and hosts that have both, each controller found by itself.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
	"vprocfs/procvirt/held"
)

// Controller is a cgroup controller, by its v1 name.
type Controller int

// The controllers that the view is made from.
const (
	CPU Controller = iota
	CPUAcct
	CPUSet
	Memory
	HugeTLB
	BlkIO
	// Pressure is no controller but treated as one: every v2 group counts its
	// stalls, and no v1 group does.
	Pressure
	// NumControllers is how many there are.
	NumControllers
)

var controllerNames = [NumControllers]string{"cpu", "cpuacct", "cpuset", "memory", "hugetlb", "blkio", "pressure"}

func (c Controller) String() string { return controllerNames[c] }

// NameV2 is the name that v2 has for the controller.
func (c Controller) NameV2() string {
	if c == BlkIO {
		return "io"
	}
	return controllerNames[c]
}

// Controllers lists all controllers that this package knows.
func Controllers() []Controller {
	return []Controller{CPU, CPUAcct, CPUSet, Memory, HugeTLB, BlkIO, Pressure}
}

// initCgroupNS is the inode of the first cgroup namespace
// (PROC_CGROUP_INIT_INO, include/linux/proc_ns.h).
const initCgroupNS = 0xEFFFFFFB

// hierarchy is one mounted tree of control groups.
type hierarchy struct {
	v2 bool
	// dir is where it is mounted, below the injected root.
	dir string
	// top is the group that dir shows, as /proc/PID/cgroup names it: "/" unless only a
	// part of the tree is mounted.
	top string
	// real says that dir shows the root group of the whole tree, which has no
	// limits, and not only what a cgroup namespace calls its root.
	real bool
}

// Mounts knows where each controller is mounted. It does not change after
// Discover and is safe for concurrent use.
type Mounts struct {
	v2 *hierarchy
	v1 [NumControllers]*hierarchy
	// inV2 says which controllers the v2 tree has.
	inV2 [NumControllers]bool
	// v2Names is what AppendV2Controllers appends.
	v2Names []byte
}

// Discover reads proc/self/mountinfo below root ("/" but in tests). It fails
// if there is no cgroup mount at all.
func Discover(root string) (*Mounts, error) {
	path := filepath.Join(root, "proc/self/mountinfo")
	list, err := mountinfo.Load(path)
	if err != nil {
		return nil, err
	}
	real := true
	if root == "/" {
		var st unix.Stat_t
		if err := unix.Stat("/proc/self/ns/cgroup", &st); err != nil {
			return nil, fmt.Errorf("stat /proc/self/ns/cgroup: %w", err)
		}
		real = st.Ino == initCgroupNS
	}
	m := newMounts(list, root, real)
	if m.v2 == nil && m.v1 == [NumControllers]*hierarchy{} {
		return nil, fmt.Errorf("%s: no cgroup file system is mounted", path)
	}
	return m, m.readV2()
}

// readV2 finds out which controllers the v2 tree has. cpuacct is not one of v2's
// own: every group counts its CPU time, in cpu.stat, and its stalls.
func (m *Mounts) readV2() error {
	if m.v2 == nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(m.v2.dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	m.inV2[CPUAcct] = true
	m.inV2[Pressure] = true
	var names []string
	for _, name := range strings.Fields(string(text)) {
		for c := range m.inV2 {
			m.inV2[c] = m.inV2[c] || Controller(c).NameV2() == name
		}
		if name == BlkIO.NameV2() {
			name = BlkIO.String()
		}
		names = append(names, name)
	}
	if m.inV2[CPU] {
		// JVMs look for both.
		names = append(names, CPUAcct.String())
	}
	m.v2Names = []byte(strings.Join(names, " "))
	return nil
}

// HasV2 reports whether a v2 tree is mounted.
func (m *Mounts) HasV2() bool { return m.v2 != nil }

// Layout returns v2, v1, or hybrid if controllers are in both.
func (m *Mounts) Layout() string {
	switch {
	case m.v2 == nil:
		return "v1"
	case m.v1 == [NumControllers]*hierarchy{}:
		return "v2"
	}
	return "hybrid"
}

// AppendV2Controllers appends the names, separated by blanks, that /proc/cgroups has for
// the controllers of the v2 tree. There are none if no v2 tree is mounted.
func (m *Mounts) AppendV2Controllers(dst []byte) []byte { return append(dst, m.v2Names...) }

// newMounts picks the cgroup mounts out of list.
func newMounts(list []mountinfo.Mount, root string, initNS bool) *Mounts {
	m := &Mounts{}
	for _, l := range list {
		h := &hierarchy{
			v2:   l.FSType == "cgroup2",
			dir:  filepath.Join(root, l.Point),
			top:  l.Root,
			real: initNS && l.Root == "/",
		}
		switch l.FSType {
		case "cgroup2":
			if better(m.v2, h) {
				m.v2 = h
			}
		case "cgroup":
			for opt := range strings.SplitSeq(l.Options, ",") {
				for c, name := range controllerNames {
					if opt == name && better(m.v1[c], h) {
						m.v1[c] = h
					}
				}
			}
		}
	}
	return m
}

// better reports whether h should take the place of old: the first mount of a
// whole tree wins over mounts of a part of it, such as those in the root
// directories of containers.
func better(old, h *hierarchy) bool {
	return old == nil || old.top != "/" && h.top == "/"
}

// Errors of Locate.
var (
	// ErrNoController says that the host has the controller neither on v1 nor on v2.
	ErrNoController = errors.New("controller is not mounted")
	// ErrOutside says that the group is outside the part of the tree that is mounted,
	// or outside the daemon's cgroup namespace ("/../x" in /proc/PID/cgroup).
	ErrOutside = errors.New("control group is outside the mounted hierarchy")
	// ErrRemoved says that the process is still in a group that has been removed.
	ErrRemoved = errors.New("control group is removed")
	// ErrTooDeep says that the group has too many ancestors: each may limit it, and
	// is read each time.
	ErrTooDeep = fmt.Errorf("control group is more than %d levels deep", maxLevels)
)

// maxLevels bounds the ancestors. Kubernetes has 5, systemd in a container some more.
const maxLevels = 64

// Place is where one controller keeps a container's numbers.
type Place struct {
	// V2 says which version's files to read.
	V2 bool
	// Root says that the container's group is the root of the tree: it has no
	// limits and its usage is the host's.
	Root bool
	// Path is the container's group as /proc/PID/cgroup names it.
	Path string
	// Dirs are the directories of that group and its ancestors, nearest first. The
	// root group of the whole tree, which has no limits, is not among them unless it
	// is the container's own.
	Dirs []string
	// Top is the directory that the tree is mounted on.
	Top string
}

func (h *hierarchy) place(path string) (Place, error) {
	rel := path
	if h.top != "/" {
		cut, ok := strings.CutPrefix(path, h.top)
		if !ok || cut != "" && cut[0] != '/' {
			return Place{}, ErrOutside
		}
		rel = cut
	}
	if strings.HasPrefix(rel, "/../") || rel == "/.." {
		return Place{}, ErrOutside
	}
	p := Place{V2: h.v2, Path: path, Top: h.dir}
	for d := filepath.Clean("/" + rel); d != "/"; d = filepath.Dir(d) {
		if len(p.Dirs) == maxLevels {
			return Place{}, ErrTooDeep
		}
		p.Dirs = append(p.Dirs, filepath.Join(h.dir, d))
	}
	p.Root = len(p.Dirs) == 0 && h.real
	if !h.real || p.Root {
		p.Dirs = append(p.Dirs, h.dir)
	}
	return p, nil
}

// marker returns the file that a v2 group has if the controller is enabled in it, ""
// if there is none.
func (c Controller) marker() string {
	switch c {
	case CPU:
		return "/cpu.max"
	case CPUSet:
		return "/cpuset.cpus.effective"
	case Memory:
		return "/memory.current"
	case BlkIO:
		return "/io.stat"
	}
	return ""
}

// EnabledLevels returns in how many of the groups of p, whose controller is ctl, the
// controller is enabled. It is 0 on v1, whose groups all have it.
func (p Place) EnabledLevels(ctl Controller) (n int) {
	marker := ctl.marker()
	if !p.V2 || marker == "" {
		return 0
	}
	var room [256]byte
	for _, dir := range p.Dirs {
		if held.Exists(appendPath(room[:0], dir, marker)) {
			n++
		}
	}
	return n
}
