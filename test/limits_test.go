// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// memTotal is the MemTotal of a /proc/meminfo in MiB.
func memTotal(t testing.TB, text string) int {
	t.Helper()
	kb, ok := meminfo(t, text)["MemTotal"]
	if !ok || kb%1024 != 0 {
		t.Fatalf("MemTotal is no number of MiB:\n%s", text)
	}
	return int(kb / 1024)
}

// TestTheSmallestLimitOfAllLevelsShowsAtTheNextRead moves the limits up and down
// a hierarchy while readers in it hold their files open.
func TestTheSmallestLimitOfAllLevelsShowsAtTheNextRead(t *testing.T) {
	dir, _ := serve(t)
	levels := []*group{newGroup(t)}
	for range 2 {
		levels = append(levels, levels[len(levels)-1].child(t, "below"))
	}
	reader := func(path string) func() string {
		c := startCommand(t, []string{"--mount", dir}, toolCommand(t, "reread", path)...)
		levels[2].adopt(t, c)
		return func() string { return c.answer(t, "", ".") }
	}
	mem, stat := reader("/proc/meminfo"), reader("/proc/stat")
	for i, g := range levels {
		t.Run(fmt.Sprintf("level %d", i), func(t *testing.T) {
			// Larger limits elsewhere do not matter.
			for j, other := range levels {
				other.limitMemory(t, 1000+j)
			}
			g.limitMemory(t, 100+i)
			if got := memTotal(t, mem()); got != 100+i {
				t.Errorf("MemTotal %d MiB, want %d", got, 100+i)
			}
			cpus := testCPUs(t)
			g.limitCPU(t, 50)
			if got := statCPUs(t, stat()); !slices.Equal(got, cpus[:1]) {
				t.Errorf("with a quota of half a CPU: rows of CPUs %v, want %v", got, cpus[:1])
			}
			g.limitCPU(t, 0)
			if got := statCPUs(t, stat()); !slices.Equal(got, cpus) {
				t.Errorf("without a quota: rows of CPUs %v, want %v", got, cpus)
			}
			// v1 wants a child's CPUs to be among its parent's at any time,
			// v2 works out which of them a child can use.
			last := cpus[len(cpus)-1:]
			setCPUs := func(order []*group, list string) {
				for _, g := range order {
					g.limitCPUs(t, list)
				}
			}
			down := slices.Clone(levels[i:])
			if g.v2["cpuset"] {
				down = down[:1]
			}
			up := slices.Clone(down)
			slices.Reverse(up)
			setCPUs(up, strconv.Itoa(last[0]))
			if got := statCPUs(t, stat()); !slices.Equal(got, last) {
				t.Errorf("with a cpuset of %v: rows of CPUs %v", last, got)
			}
			setCPUs(down, strings.Trim(strings.ReplaceAll(fmt.Sprint(cpus), " ", ","), "[]"))
			if got := statCPUs(t, stat()); !slices.Equal(got, cpus) {
				t.Errorf("with a cpuset of %v: rows of CPUs %v", cpus, got)
			}
		})
	}
}

// TestAControllerThatTheLeafLacksIsThatOfItsParent has a process in a group of
// which one controller is only enabled above. (On v1 it is the hierarchies that
// differ: in one of them the process is in the parent.)
func TestAControllerThatTheLeafLacksIsThatOfItsParent(t *testing.T) {
	dir, _ := serve(t)
	t.Run("memory", func(t *testing.T) {
		parent := newGroup(t)
		leaf := parent.child(t, "leaf", "cpu", "cpuacct", "cpuset")
		parent.limitMemory(t, 128)
		c := startContainer(t, "--mount", dir)
		leaf.adopt(t, c)
		c.sh(t, "head -c 20000000 /dev/zero > "+filepath.Join(t.TempDir(), "file"))
		text := c.sh(t, "cat /proc/meminfo")
		if got := memTotal(t, text); got != 128 {
			t.Errorf("MemTotal %d MiB, want the parent's 128", got)
		}
		free, want := int64(meminfo(t, text)["MemFree"]), int64(128<<20-parent.usage(t))/1024
		if free-want > 8<<10 || want-free > 8<<10 {
			t.Errorf("MemFree %d kB, want about %d kB by the parent's usage", free, want)
		}
		if !leaf.v2["memory"] {
			return // moving to another group is another test's
		}
		parent.enable(t, "memory")
		write(t, filepath.Join(leaf.unified, "memory.max"), strconv.Itoa(64<<20))
		waitFor(t, "a controller that was enabled to show", func() bool {
			return memTotal(t, c.sh(t, "cat /proc/meminfo")) == 64
		})
	})
	t.Run("cpu", func(t *testing.T) {
		parent := newGroup(t)
		leaf := parent.child(t, "leaf", "memory", "cpuset")
		parent.limitCPU(t, 50)
		c := startContainer(t, "--mount", dir)
		leaf.adopt(t, c)
		if got, want := statCPUs(t, c.sh(t, "cat /proc/stat")), testCPUs(t)[:1]; !slices.Equal(got, want) {
			t.Errorf("rows of CPUs %v, want %v by the parent's quota", got, want)
		}
	})
	t.Run("cpuset", func(t *testing.T) {
		parent := newGroup(t)
		leaf := parent.child(t, "leaf", "memory", "cpu", "cpuacct")
		cpus := testCPUs(t)
		last := cpus[len(cpus)-1:]
		parent.limitCPUs(t, strconv.Itoa(last[0]))
		c := startContainer(t, "--mount", dir)
		leaf.adopt(t, c)
		if got := statCPUs(t, c.sh(t, "cat /proc/stat")); !slices.Equal(got, last) {
			t.Errorf("rows of CPUs %v, want %v by the parent's cpuset", got, last)
		}
	})
}

// systemContainer is a container with an init in init.scope and services in
// slices, as systemd makes them.
type systemContainer struct {
	*container
	group, scope, slice, service *group
}

func startSystemContainer(t *testing.T, dir string) systemContainer {
	t.Helper()
	s := systemContainer{group: newGroup(t)}
	s.scope = s.group.child(t, "init.scope")
	s.slice = s.group.child(t, "system.slice")
	s.service = s.slice.child(t, "x.service")
	s.container = startContainer(t, "--mount", dir)
	s.scope.adopt(t, s.container)
	return s
}

func TestServicesOfASystemContainerSeeTheWholeContainer(t *testing.T) {
	dir, _ := serve(t)
	c := startSystemContainer(t, dir)
	c.group.limitMemory(t, 128)
	// A service's limits are no container's.
	c.service.limitMemory(t, 64)
	c.service.limitCPU(t, 50)
	// What one service uses, all see.
	c.sh(t, c.service.in("head -c 20000000 /dev/zero > "+filepath.Join(t.TempDir(), "file")))
	cpus := testCPUs(t)
	for name, g := range map[string]*group{"init.scope": c.scope, "the service": c.service} {
		text := c.sh(t, g.in("cat /proc/meminfo"))
		if got := memTotal(t, text); got != 128 {
			t.Errorf("in %s: MemTotal %d MiB, want 128", name, got)
		}
		free, want := int64(meminfo(t, text)["MemFree"]), int64(128<<20-c.group.usage(t))/1024
		if want > 110<<10 || free-want > 8<<10 || want-free > 8<<10 {
			t.Errorf("in %s: MemFree %d kB, want about %d kB", name, free, want)
		}
		if got := statCPUs(t, c.sh(t, g.in("cat /proc/stat"))); !slices.Equal(got, cpus) {
			t.Errorf("in %s: rows of CPUs %v, want %v", name, got, cpus)
		}
	}
	c.group.limitCPU(t, 100)
	for name, g := range map[string]*group{"init.scope": c.scope, "the service": c.service} {
		if got := statCPUs(t, c.sh(t, g.in("cat /proc/stat"))); !slices.Equal(got, cpus[:1]) {
			t.Errorf("in %s: rows of CPUs %v, want %v", name, got, cpus[:1])
		}
	}
}

func TestAContainerWithinAServiceSeesTheServicesGroup(t *testing.T) {
	dir, _ := serve(t)
	c := startSystemContainer(t, dir)
	c.group.limitMemory(t, 128)
	nested := c.service.in("unshare --pid --fork cat /proc/meminfo")
	if got := memTotal(t, c.sh(t, nested)); got != 128 {
		t.Errorf("nested, without a limit: MemTotal %d MiB, want the outer's 128", got)
	}
	c.service.limitMemory(t, 64)
	if got := memTotal(t, c.sh(t, nested)); got != 64 {
		t.Errorf("nested: MemTotal %d MiB, want 64", got)
	}
	c.service.limitMemory(t, 200)
	if got := memTotal(t, c.sh(t, nested)); got != 128 {
		t.Errorf("nested, with a limit above the outer's: MemTotal %d MiB, want 128", got)
	}
	if got := memTotal(t, c.sh(t, "cat /proc/meminfo")); got != 128 {
		t.Errorf("outer: MemTotal %d MiB, want 128", got)
	}
}

// TestContainersThatShareAPidNamespaceSeeTheirOwn is Kubernetes'
// shareProcessNamespace: the init is of a third container, which has no limits.
func TestContainersThatShareAPidNamespaceSeeTheirOwn(t *testing.T) {
	for policy, want := range map[string][]int{"auto": {100, 200}, "caller": {100, 200}, "init": {300, 300}} {
		t.Run(policy, func(t *testing.T) {
			dir, _ := serve(t, "--cgroup-source", policy)
			pod := newGroup(t)
			pause, a, b := pod.child(t, "pause"), pod.child(t, "a"), pod.child(t, "b")
			pause.limitMemory(t, 300)
			a.limitMemory(t, 100)
			b.limitMemory(t, 200)
			c := startContainer(t, "--mount", dir)
			pause.adopt(t, c)
			for range 3 { // in turns: one's numbers must not stick to the other
				for i, g := range []*group{a, b} {
					if got := memTotal(t, c.sh(t, g.in("cat /proc/meminfo"))); got != want[i] {
						t.Errorf("container %d: MemTotal %d MiB, want %d", i, got, want[i])
					}
				}
			}
			if policy == "init" {
				return
			}
			// Nor may the CPU time.
			c.sh(t, a.in(`timeout 2 sh -c "while :; do :; done" || true`))
			busy := func(g *group) float64 {
				v := floats(t, strings.TrimPrefix(c.sh(t, g.in("grep '^cpu ' /proc/stat")), "cpu"))
				return (v[0] + v[1] + v[2]) / ticks
			}
			used := float64(usedNanos(t, a)) / 1e9
			if got := busy(a); got < used-0.1 || used < 0.2 {
				t.Errorf("a has used %.2f s, its stat says %.2f s", used, got)
			}
			if got, most := busy(b), float64(usedNanos(t, b))/1e9+0.03; got > most {
				t.Errorf("b has used %.2f s, its stat says %.2f s", most, got)
			}
		})
	}
}

// usedNanos is the CPU time that the group has used.
func usedNanos(t testing.TB, g *group) uint64 {
	t.Helper()
	if !g.v2["cpuacct"] {
		return number(t, filepath.Join(g.dirs["cpuacct"], "cpuacct.usage"))
	}
	first, _, _ := strings.Cut(readFile(t, filepath.Join(g.dirs["cpuacct"], "cpu.stat")), "\n")
	usec, err := strconv.ParseUint(strings.TrimPrefix(first, "usage_usec "), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return usec * 1000
}

// TestAContainerInTheHostsPidNamespaceSeesItsGroup is `docker run --pid=host`.
func TestAContainerInTheHostsPidNamespaceSeesItsGroup(t *testing.T) {
	dir, _ := serve(t)
	g := newGroup(t)
	g.limitMemory(t, 128)
	g.limitCPU(t, 50)
	read := func(name string) string {
		out, err := exec.Command("sh", "-ec", g.in("cat '"+filepath.Join(dir, "proc", name)+"'")).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got := memTotal(t, read("meminfo")); got != 128 {
		t.Errorf("MemTotal %d MiB, want 128", got)
	}
	if got, want := statCPUs(t, read("stat")), testCPUs(t)[:1]; !slices.Equal(got, want) {
		t.Errorf("rows of CPUs %v, want %v", got, want)
	}
}

func TestTheCpusetViewIgnoresTheQuota(t *testing.T) {
	cpus := testCPUs(t)
	out := inContainer(t, []string{"--cpu-view", "cpuset", "--cpus", "0.5"}, "cat", "/proc/stat")
	if got := statCPUs(t, out); !slices.Equal(got, cpus) {
		t.Errorf("rows of CPUs %v, want %v", got, cpus)
	}
}
