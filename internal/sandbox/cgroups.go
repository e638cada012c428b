// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix is the prefix of the names of the cgroups of containers. The pid of
// `vprocfs run` follows.
const cgroupPrefix = "vprocfs-run-"

// removeTimeout is how long a cgroup may stay busy after its last process has been
// waited for. The kernel releases dead threads a little later.
const removeTimeout = 2 * time.Second

// Cgroups are the cgroups of a container, one in each hierarchy.
type Cgroups struct {
	dirs []string
}

// MakeCgroups makes the cgroups of a container with its limits. The name of each
// ends in pid. On an error none is left.
func MakeCgroups(pid int, l Limits) (*Cgroups, error) {
	hierarchies, err := findHierarchies()
	if err != nil {
		return nil, err
	}
	return makeCgroups(hierarchies, pid, l)
}

func makeCgroups(hierarchies []hierarchy, pid int, l Limits) (_ *Cgroups, err error) {
	c := &Cgroups{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Remove())
		}
	}()
	set := make(map[string]bool) // controllers whose limits are set
	for i := range hierarchies {
		h := &hierarchies[i]
		parent := h.own
		if h.v2 {
			names, needed := wanted(l, hierarchies)
			if parent, err = delegate(h, names, needed); err != nil {
				return nil, err
			}
		}
		sweep(parent)
		dir := filepath.Join(parent, cgroupPrefix+strconv.Itoa(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		c.dirs = append(c.dirs, dir)
		if err := setLimits(h, parent, dir, l, set); err != nil {
			return nil, err
		}
	}
	for _, name := range l.controllers() {
		if !set[name] {
			return nil, fmt.Errorf("no cgroup hierarchy of this host can limit %s", name)
		}
	}
	return c, nil
}

// controllers returns the controllers that the limits need.
func (l *Limits) controllers() []string {
	var names []string
	if l.Memory != 0 {
		names = append(names, "memory")
	}
	if l.CPUs != 0 {
		names = append(names, "cpu")
	}
	if l.CPUSet.text != "" {
		names = append(names, "cpuset")
	}
	return names
}

// Add moves process pid with all its threads into the cgroups.
func (c *Cgroups) Add(pid int) error {
	for _, dir := range c.dirs {
		if err := writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes the cgroups and all below them. Their processes must have ended.
func (c *Cgroups) Remove() error {
	var errs []error
	for _, dir := range c.dirs {
		err := removeTree(dir)
		for end := time.Now().Add(removeTimeout); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
			err = removeTree(dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and all below it, deepest first. It is no error if the
// cgroup does not exist.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("rmdir %s: %w", dir, err)
}

// sweep removes the cgroups that killed runs have left below parent. A cgroup with a
// process in it stays: rmdir(2) returns EBUSY.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return // Mkdir says why
	}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), cgroupPrefix)
		pid, err := strconv.Atoi(text)
		// A cgroup with our pid is of a process that had the pid before.
		if ok && err == nil && (pid == os.Getpid() || ended(pid)) {
			_ = removeTree(filepath.Join(parent, e.Name())) // a busy one is for a later run
		}
	}
}

// ended reports whether process pid has ended. Unlike kill(2), it counts a zombie as
// ended.
func ended(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// wanted returns the v2 controllers that a container should have. The first needed
// ones are those that limit it; the others are those that the view shows. A
// controller of a v1 hierarchy is not among them.
func wanted(l Limits, hierarchies []hierarchy) (names []string, needed int) {
	onV1 := func(name string) bool {
		return slices.ContainsFunc(hierarchies, func(h hierarchy) bool { return h.has(name) })
	}
	names = slices.DeleteFunc(l.controllers(), onV1)
	needed = len(names)
	for _, name := range []string{"memory", "cpu", "cpuset", "io"} {
		if !slices.Contains(names, name) && !onV1(name) {
			names = append(names, name)
		}
	}
	return names, needed
}

// delegate returns the v2 cgroup to make the container's cgroup in: the nearest one,
// from our own up, whose children have the controllers names, or at least the first
// needed ones. It prefers a cgroup that already has them enabled. Controllers that it
// enables stay enabled, because disabling them would remove the limits of every other
// container below.
//
// A cgroup with processes cannot enable any for its children (EBUSY, the "no internal
// processes" rule, cgroups(7)), unless it is the root.
func delegate(h *hierarchy, names []string, needed int) (string, error) {
	root, err := words(filepath.Join(h.mount, "cgroup.controllers"))
	if err != nil {
		return "", err
	}
	available := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(root, n) })
	for _, want := range [][]string{available, names[:needed]} {
		for _, try := range []func(string, []string) bool{has, enable} {
			for dir := h.own; ; dir = filepath.Dir(dir) {
				if try(dir, want) {
					return dir, nil
				}
				if dir == h.mount || len(dir) <= 1 {
					break
				}
			}
		}
	}
	return "", fmt.Errorf("no cgroup from %s up to %s can give its children the controllers %s",
		h.own, h.mount, strings.Join(names[:needed], " "))
}

// has reports whether the children of v2 cgroup dir have the controllers.
func has(dir string, controllers []string) bool {
	have, err := words(filepath.Join(dir, subtreeControl))
	return err == nil && !slices.ContainsFunc(controllers, func(name string) bool { return !slices.Contains(have, name) })
}

// enable enables the controllers for the children of v2 cgroup dir. It reports whether
// that worked.
func enable(dir string, controllers []string) bool {
	return writeFile(filepath.Join(dir, subtreeControl), "+"+strings.Join(controllers, " +")) == nil
}

const subtreeControl = "cgroup.subtree_control"

// words returns the words of a file.
func words(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	return strings.Fields(string(b)), err
}

// writeFile writes text to a file of a cgroup with one write(2).
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %q: %w", text, err)
	}
	return nil
}
