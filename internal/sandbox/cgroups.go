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

// cgroupPrefix begins the name of every cgroup that run makes; the pid of the
// run follows.
const cgroupPrefix = "vprocfs-run-"

// removeTimeout is how long a cgroup may stay busy after its last process has
// been waited for. The kernel lets go of dead threads a little later.
const removeTimeout = 2 * time.Second

// Cgroups are the cgroups of one container, one in each hierarchy.
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
	set := make(map[string]bool) // limits that are in force
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

// controllers names the controllers that the limits need.
func (l *Limits) controllers() []string {
	var names []string
	if l.Memory != 0 {
		names = append(names, "memory")
	}
	if l.CPUs != 0 {
		names = append(names, "cpu")
	}
	if l.CPUSet.cpus != nil {
		names = append(names, "cpuset")
	}
	return names
}

// Add puts process pid, with all its threads, into the cgroups.
func (c *Cgroups) Add(pid int) error {
	for _, dir := range c.dirs {
		if err := writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes the cgroups and those that were made in them. Their processes
// must have ended.
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

// removeTree removes a cgroup and all below it, deepest first. One that is gone
// already is no error.
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

// sweep removes what killed runs have left below parent. A cgroup with a
// process in it stays: rmdir(2) refuses it.
func sweep(parent string) {
	left, err := filepath.Glob(filepath.Join(escapeGlob(parent), cgroupPrefix+"*"))
	if err != nil {
		return // a pattern of our own is never malformed
	}
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix))
		if err != nil {
			continue
		}
		// Our own pid was another's before.
		if pid == os.Getpid() || ended(pid) {
			_ = removeTree(dir) // what is still busy is for the run after this one
		}
	}
}

// ended tells whether no process pid runs any more; one that nobody has waited
// for yet, which kill(2) would find, does not run.
func ended(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// escapeGlob makes a pattern that only matches path.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// wanted names the v2 controllers that a container should have of its own. The
// first, as many as needed says, are those that limit it; then come those that
// the view shows. A controller that a v1 hierarchy has is not in v2.
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

// delegate finds the v2 cgroup to make the container's in: the nearest one, from
// our own up, that gives its children the wanted controllers, or the needed ones
// at least. One that does already is preferred to one that has to be told,
// because what is told stays told: taking it back would take the limits from
// every other container below.
//
// A cgroup with processes in it cannot give any (EBUSY, the "no internal
// processes" rule, cgroups(7)), unless it is the root.
func delegate(h *hierarchy, names []string, needed int) (string, error) {
	root, err := words(filepath.Join(h.mount, "cgroup.controllers"))
	if err != nil {
		return "", err
	}
	available := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(root, n) })
	for _, want := range [][]string{available, names[:needed]} {
		for _, enable := range []bool{false, true} {
			for dir := h.own; ; dir = filepath.Dir(dir) {
				if gives(dir, want, enable) {
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

// gives tells whether the children of v2 cgroup dir have the controllers,
// enabling what is missing where asked to.
func gives(dir string, controllers []string, enable bool) bool {
	file := filepath.Join(dir, "cgroup.subtree_control")
	have, err := words(file)
	if err != nil {
		return false
	}
	var missing []string
	for _, name := range controllers {
		if !slices.Contains(have, name) {
			missing = append(missing, "+"+name)
		}
	}
	return len(missing) == 0 || enable && writeFile(file, strings.Join(missing, " ")) == nil
}

// words reads a file of words between spaces.
func words(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	return strings.Fields(string(b)), err
}

// writeFile writes to a cgroup's file, in one write(2), as they want it.
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
