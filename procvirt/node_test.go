// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

// fourNodes makes a host of four memory nodes of 256 MiB each out of one that was captured:
// of four CPUs, one to a node, and of 1 GiB.
func fourNodes(t *testing.T, name, mems string) *fixture.Host {
	t.Helper()
	h := load(t, name)
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(h.Root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range []string{"online", "possible", "has_cpu", "has_memory", "has_normal_memory"} {
		write(nodeDir+list, "0-3\n")
	}
	for node := range 4 {
		dir := fmt.Sprintf("%snode%d/", nodeDir, node)
		write(dir+"cpulist", fmt.Sprintf("%d\n", node))
		write(dir+"cpumap", fmt.Sprintf("00000000,0000000%x\n", 1<<node))
		write(dir+"numastat", "numa_hit 1234\nnuma_miss 5\ninterleave_hit 6\n")
		write(dir+"meminfo", strings.ReplaceAll("Node N MemTotal:         262144 kB\nNode N MemFree:          100000 kB\nNode N MemUsed:          162144 kB\n"+
			"Node N Active(file):      50000 kB\nNode N FilePages:         70000 kB\nNode N AnonPages:         60000 kB\nNode N Shmem:               500 kB\n"+
			"Node N KernelStack:         900 kB\nNode N HugePages_Total:     0\nNode N New:                7 kB\n", "Node N", fmt.Sprintf("Node %d", node)))
	}
	const anon, file = "anon N0=4096 N1=41943040 N2=0 N3=8192\n", "file N0=1048576 N1=0 N2=2097152 N3=0\n"
	switch h.Layout {
	case "v2":
		write("sys/fs/cgroup/machine/ct1/cpuset.mems.effective", mems+"\n")
		write("sys/fs/cgroup/machine/ct1/memory.numa_stat", anon+file+"kernel_stack N0=16384 N1=0 N2=0 N3=0\nactive_file N0=4096 N1=0 N2=8192 N3=0\n")
	default:
		write("sys/fs/cgroup/cpuset/machine/ct1/cpuset.effective_mems", mems+"\n")
		write("sys/fs/cgroup/memory/machine/ct1/memory.numa_stat", "total=1 N0=1\nanon=1 N0=1\n"+
			"hierarchical_total=11010 N0=257 N1=10240 N2=512 N3=2\nhierarchical_file=768 N0=256 N1=0 N2=512 N3=0\nhierarchical_anon=10243 N0=1 N1=10240 N2=0 N3=2\n")
	}
	return h
}

// nodeText returns a file of a node as a caller sees it, ours false if it is the host's.
func nodeText(t *testing.T, r *Registry, s *Subject, node int, name string) (text string, ours bool) {
	t.Helper()
	c, err := r.Acquire(pidOf(t, r, s), &fakeTurn{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	b, ours, err := c.AppendNode(nil, node, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), ours
}

// lineOf returns a number of a node's meminfo.
func lineOf(t *testing.T, text, label string) uint64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^Node \d+ ` + regexp.QuoteMeta(label) + `: +(\d+)( kB)?$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in\n%s", label, text)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNodesAreThoseOfTheCpuset: the container of the captures has CPUs 0-1, of nodes 0 and 1.
func TestNodesAreThoseOfTheCpuset(t *testing.T) {
	for _, host := range []string{"trixie-v2", "bullseye-v1"} {
		for _, c := range []struct{ mems, hasCPU string }{{"0-3", "0-1"}, {"1-2", "1"}, {"0,3", "0"}} {
			h := fourNodes(t, host, c.mems)
			r := fixtureRegistry(t, h, nil)
			s := subject(t, h, h.Roles["child"])
			for name, want := range map[string]string{
				"online": c.mems, "possible": c.mems, "has_memory": c.mems, "has_normal_memory": c.mems, "has_cpu": c.hasCPU,
			} {
				if got := string(render(t, r, "node/"+name, s)); got != want+"\n" {
					t.Errorf("%s, mems %s: %s is %q, want %s", host, c.mems, name, got, want)
				}
			}
			if len(r.Stats()) != 0 {
				t.Errorf("the host's files are shown: %v", r.Stats())
			}
			if got := string(render(t, r, "node/online", subject(t, h, h.Roles["host"]))); got != "0-3\n" {
				t.Errorf("the host sees nodes %s", got)
			}
		}
	}
}

func TestCPUsOfANodeAreTheVisibleOnes(t *testing.T) {
	h := fourNodes(t, "trixie-v2", "0-3")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	for node, want := range [][2]string{{"0\n", "00000000,00000001\n"}, {"1\n", "00000000,00000002\n"}, {"\n", "00000000,00000000\n"}, {"\n", "00000000,00000000\n"}} {
		list, _ := nodeText(t, r, s, node, "cpulist")
		bitmap, ours := nodeText(t, r, s, node, "cpumap")
		if list != want[0] || bitmap != want[1] || !ours {
			t.Errorf("node %d: CPUs %q and %q, want %q and %q", node, list, bitmap, want[0], want[1])
		}
	}
	if text, _ := nodeText(t, r, s, 1, "numastat"); text != "numa_hit 0\nnuma_miss 0\ninterleave_hit 0\n" {
		t.Errorf("numastat: %q", text)
	}
	if _, ours := nodeText(t, r, s, 1, "distance"); ours {
		t.Error("distance is not the host's")
	}
}

func TestMemoryOfTheNodesIsMeminfos(t *testing.T) {
	for _, host := range []string{"trixie-v2", "bullseye-v1"} {
		for _, c := range []struct {
			mems  string
			nodes []int
		}{{"0-3", []int{0, 1, 2, 3}}, {"1", []int{1}}, {"1-3", []int{1, 2, 3}}} {
			h := fourNodes(t, host, c.mems)
			r := fixtureRegistry(t, h, nil)
			s := subject(t, h, h.Roles["child"])
			var total, free, anon uint64
			for _, node := range c.nodes {
				text, ours := nodeText(t, r, s, node, "meminfo")
				if !ours {
					t.Fatalf("%s, mems %s: %v", host, c.mems, r.Stats())
				}
				sum, rest := lineOf(t, text, "MemTotal"), lineOf(t, text, "MemFree")
				if used := lineOf(t, text, "MemUsed"); used != sum-rest || rest > sum {
					t.Errorf("%s, mems %s: node %d has %d kB, %d free and %d used", host, c.mems, node, sum, rest, used)
				}
				if got := lineOf(t, text, "New"); got != 7 {
					t.Errorf("a line that is not known became %d", got)
				}
				total, free, anon = total+sum, free+rest, anon+lineOf(t, text, "AnonPages")
				if node == 1 && lineOf(t, text, "AnonPages") != 40960 {
					t.Errorf("%s: AnonPages of node 1: %d kB", host, lineOf(t, text, "AnonPages"))
				}
			}
			m, _ := oracle(t, render(t, r, "meminfo", s), []byte(hostStat))
			if total != *m.MemTotal || free > *m.MemFree || len(c.nodes) == 1 && free+4096 < min(*m.MemFree, total-anon) {
				t.Errorf("%s, mems %s: the nodes have %d kB, %d free; meminfo %d and %d", host, c.mems, total, free, *m.MemTotal, *m.MemFree)
			}
		}
	}
}

func TestAHostWithoutNodesShowsNone(t *testing.T) {
	r := fixtureRegistry(t, load(t, "trixie-v2"), nil)
	for _, f := range r.Files() {
		if strings.HasPrefix(f.Path, nodeDir) {
			t.Errorf("%s is served", f)
		}
	}
	if r.HasNodes() {
		t.Error("it has nodes")
	}
}

// FuzzNodes gives nodes any memory: the sums are never more than the container's.
func FuzzNodes(f *testing.F) {
	f.Add(uint64(256<<20), uint64(100<<20), uint64(1<<30), uint64(1<<29), uint64(4096), uint64(1<<28))
	f.Add(^uint64(0), uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, total, free, a, b, usedA, usedB uint64) {
		free = min(free, total)
		nodes := []nodeShare{{node: 0, total: a, used: usedA}, {node: 1, total: b, used: usedB}}
		shareOut(nodes, total, free)
		if sum := add(nodes[0].total, nodes[1].total); sum != total {
			t.Errorf("%d, want %d", sum, total)
		}
		if sum := add(nodes[0].free, nodes[1].free); sum > free {
			t.Errorf("%d are free, of %d", sum, free)
		}
		for _, n := range nodes {
			if n.free > n.total {
				t.Errorf("%+v has more free than it has", n)
			}
		}
	})
}

// FuzzNodeFiles gives the host any text of a node.
func FuzzNodeFiles(f *testing.F) {
	f.Add([]byte("Node 0 MemTotal: 5 kB\n:\nMemUsed: 9 kB"), []byte("ffffffff,0000000f\n"), uint64(7))
	f.Fuzz(func(t *testing.T, meminfo, cpumap []byte, n uint64) {
		m := nodeMeminfo{text: meminfo, own: nodeShare{total: n, free: n / 2}, stat: cgroup.MemoryStat{Anon: n, File: n}}
		want := strings.Count(string(meminfo), "\n")
		if len(meminfo) > 0 && meminfo[len(meminfo)-1] != '\n' {
			want++
		}
		if got := strings.Count(string(m.append(nil)), "\n"); got != want {
			t.Fatalf("%d lines became %d", want, got)
		}
		c := nodeCPUMap{nodeCPUs{text: cpumap}}
		c.visible.Add(int(n % 100))
		if got := c.append(nil); len(got) != len(cpumap) {
			t.Fatalf("%q became %q", cpumap, got)
		}
	})
}
