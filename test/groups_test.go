// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// viewControllers are the controllers that the files served are made from.
func viewControllers() []string { return []string{"cpu", "cpuacct", "cpuset", "memory"} }

// group is a cgroup that a test has made: one directory in each hierarchy, of
// v1, v2 or both, as the machine has them.
type group struct {
	// dirs are where the files of each controller are: the group's own, or,
	// where the controller is not enabled in it, those of the nearest group
	// above that has it.
	dirs map[string]string
	v2   map[string]bool
	// join are the directories that a process of the group is in.
	join []string
	// unified is the directory in the v2 tree, if a controller is there.
	unified string
}

// newGroup makes a group with all controllers below the tests' own cgroups, or
// as near to them as v2 allows. It ends with the test.
func newGroup(t testing.TB) *group {
	t.Helper()
	base := &group{dirs: make(map[string]string), v2: make(map[string]bool)}
	for _, c := range viewControllers() {
		dir, v2 := cgroupDir(t, os.Getpid(), c)
		if v2 {
			dir = delegating(t, dir)
			base.unified = dir
		}
		base.dirs[c], base.v2[c] = dir, v2
	}
	return base.child(t, fmt.Sprintf("vprocfs-test-%d-%s", os.Getpid(), filepath.Base(t.TempDir())+strings.ReplaceAll(t.Name(), "/", "-")))
}

// delegating returns the nearest v2 cgroup, from dir up, that may give its
// children controllers: the root, or one without processes (the "no internal
// processes" rule of cgroups(7)).
func delegating(t testing.TB, dir string) string {
	t.Helper()
	for root := cgroupMount(t, "cgroup2", ""); dir != root; dir = filepath.Dir(dir) {
		if readFile(t, filepath.Join(dir, "cgroup.procs")) == "" && strings.Contains(readFile(t, filepath.Join(dir, "cgroup.controllers")), "memory") {
			break
		}
	}
	return dir
}

// child makes a group below g that has the controllers named, or all. On v2 they
// become enabled for all children of g, which may then have no processes of its
// own.
func (g *group) child(t testing.TB, name string, controllers ...string) *group {
	t.Helper()
	if len(controllers) == 0 {
		controllers = viewControllers()
	}
	c := &group{dirs: maps.Clone(g.dirs), v2: g.v2}
	if g.unified != "" {
		c.unified = filepath.Join(g.unified, name)
		g.enable(t, controllers...)
		c.makeDir(t, c.unified)
	}
	for _, controller := range viewControllers() {
		wanted := slices.Contains(controllers, controller)
		switch parent := g.dirs[controller]; {
		case g.v2[controller]:
			// cpu.stat, which is v2's cpuacct, needs no controller.
			if wanted || controller == "cpuacct" {
				c.dirs[controller] = c.unified
			}
		case wanted:
			c.dirs[controller] = filepath.Join(parent, name)
			if !slices.Contains(c.join, c.dirs[controller]) { // cpu and cpuacct can be one
				c.makeDir(t, c.dirs[controller])
			}
		case !slices.Contains(c.join, parent):
			c.join = append(c.join, parent)
		}
	}
	if dir := c.dirs["cpuset"]; !c.v2["cpuset"] && dir != g.dirs["cpuset"] {
		// A new cpuset of v1 is empty, and no process may be in such.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			write(t, filepath.Join(dir, file), strings.TrimSpace(readFile(t, filepath.Join(g.dirs["cpuset"], file))))
		}
	}
	return c
}

// enable gives the children of g controllers, where that is v2.
func (g *group) enable(t testing.TB, controllers ...string) {
	t.Helper()
	for _, c := range controllers {
		if g.v2[c] && c != "cpuacct" {
			write(t, filepath.Join(g.unified, "cgroup.subtree_control"), "+"+c)
		}
	}
}

func (g *group) makeDir(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	g.join = append(g.join, dir)
	t.Cleanup(func() { removeGroup(t, dir) })
}

// removeGroup removes a cgroup's directory, if it is there.
func removeGroup(t testing.TB, dir string) {
	t.Helper()
	// The kernel lets go of dead processes a little later.
	waitFor(t, "the cgroup "+dir+" to become empty", func() bool {
		err := unix.Rmdir(dir)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
			t.Fatalf("rmdir %s: %v", dir, err)
		}
		return !errors.Is(err, unix.EBUSY)
	})
}

// enter is a shell command that moves its shell into the group, also one of a
// container, which sees the host's cgroups.
func (g *group) enter() string {
	var b strings.Builder
	for _, dir := range g.join {
		fmt.Fprintf(&b, "echo 0 > '%s/cgroup.procs' && ", dir)
	}
	return b.String() + ":"
}

// in makes a shell command that runs another one in the group.
func (g *group) in(command string) string { return "(" + g.enter() + " && exec " + command + ")" }

// adopt moves a container, which is its init and one command, into the group.
func (g *group) adopt(t testing.TB, c *container) {
	t.Helper()
	for _, pid := range append(children(c.init), c.init) {
		for _, dir := range g.join {
			write(t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
		}
	}
}

// limitMemory sets the memory limit in MiB; 0 is none.
func (g *group) limitMemory(t testing.TB, mib int) {
	t.Helper()
	file, value, none := "memory.limit_in_bytes", strconv.Itoa(mib<<20), "-1"
	if g.v2["memory"] {
		file, none = "memory.max", "max"
	}
	if mib == 0 {
		value = none
	}
	write(t, filepath.Join(g.dirs["memory"], file), value)
}

// limitCPU sets the quota in hundredths of a CPU; 0 is none.
func (g *group) limitCPU(t testing.TB, percent int) {
	t.Helper()
	file, value, none := "cpu.cfs_quota_us", strconv.Itoa(percent*1000), "-1"
	if g.v2["cpu"] {
		file, value, none = "cpu.max", value+" 100000", "max"
	}
	if percent == 0 {
		value = none
	}
	write(t, filepath.Join(g.dirs["cpu"], file), value)
}

// limitCPUs sets the cpuset, as a list.
func (g *group) limitCPUs(t testing.TB, list string) {
	t.Helper()
	write(t, filepath.Join(g.dirs["cpuset"], "cpuset.cpus"), list)
}

// usage is the memory that the group uses, in bytes.
func (g *group) usage(t testing.TB) uint64 {
	t.Helper()
	file := "memory.usage_in_bytes"
	if g.v2["memory"] {
		file = "memory.current"
	}
	return number(t, filepath.Join(g.dirs["memory"], file))
}

// number reads a file of one number.
func number(t testing.TB, path string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(readFile(t, path)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}

// write writes to a cgroup's file in one write(2), as they want it. Not with os,
// which makes descriptors non-blocking that epoll(7) takes: since Linux 6.16 a new
// memory.max is then set without making what is over it go.
func write(t testing.TB, path, text string) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	defer unix.Close(fd)
	for err = unix.EINTR; err == unix.EINTR; {
		_, err = unix.Write(fd, []byte(text))
	}
	if err != nil {
		t.Fatalf("write %q: write %s: %v", text, path, err)
	}
}

// testCPUs lists the CPUs that the tests may run on, in ascending order.
func testCPUs(t testing.TB) []int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// statCPUs lists the CPUs that a /proc/stat has rows of.
func statCPUs(t testing.TB, stat string) []int {
	t.Helper()
	var cpus []int
	for line := range strings.Lines(stat) {
		name, _, _ := strings.Cut(line, " ")
		if n, ok := strings.CutPrefix(name, "cpu"); ok && n != "" {
			cpu, err := strconv.Atoi(n)
			if err != nil {
				t.Fatalf("stat: %q", line)
			}
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}
