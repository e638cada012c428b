// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// hostNode is a memory node of the host, as its own files have it.
type hostNode struct {
	id     int
	cpus   []int
	memory uint64 // MemTotal, in kB
}

// hostNodes returns the host's nodes with memory that the tests may use.
func hostNodes(t testing.TB) (nodes []hostNode) {
	t.Helper()
	m := regexp.MustCompile(`(?m)^Mems_allowed_list:\t(.*)$`).FindStringSubmatch(readFile(t, "/proc/self/status"))
	for _, id := range cpuList(t, m[1]) {
		dir := fmt.Sprintf("%s/node%d/", nodesDir, id)
		total := regexp.MustCompile(`MemTotal: +(\d+) kB`).FindStringSubmatch(readFile(t, dir+"meminfo"))
		memory, err := strconv.ParseUint(total[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, hostNode{id, cpuList(t, readFile(t, dir+"cpulist")), memory})
	}
	return nodes
}

// listOf makes a list of numbers, as a file of the kernel or a tool has it.
func listOf(numbers []int, by string) string {
	var words []string
	for _, n := range numbers {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, by)
}

// nodeChoices are the sets of nodes that the tests confine a container to: the last node, the
// last two, and all.
func nodeChoices(nodes []hostNode) (choices [][]hostNode) {
	for _, n := range []int{1, 2, len(nodes)} {
		if n <= len(nodes) && (len(choices) == 0 || n > len(choices[len(choices)-1])) {
			choices = append(choices, nodes[len(nodes)-n:])
		}
	}
	return choices
}

// nodeIDs are the numbers of nodes.
func nodeIDs(nodes []hostNode) (ids []int) {
	for _, n := range nodes {
		ids = append(ids, n.id)
	}
	return ids
}

// limitNodes gives the group the memory and the CPUs of these nodes, and returns the CPUs.
func (g *group) limitNodes(t testing.TB, nodes []hostNode) (cpus []int) {
	t.Helper()
	for _, n := range nodes {
		for _, cpu := range n.cpus {
			if slices.Contains(testCPUs(t), cpu) {
				cpus = append(cpus, cpu)
			}
		}
	}
	g.limitCPUs(t, listOf(cpus, ","))
	write(t, filepath.Join(g.dirs["cpuset"], "cpuset.mems"), listOf(nodeIDs(nodes), ","))
	return cpus
}

// inGroup starts a container in a group of its own.
func inGroup(t *testing.T) (*container, *group) {
	t.Helper()
	mount, _ := serve(t)
	g := newGroup(t)
	c := startContainer(t, "--mount", mount)
	g.adopt(t, c)
	return c, g
}

// nodeMeminfo returns a node's meminfo as the container sees it, in kB, by name.
func nodeMeminfo(t testing.TB, c *container, node int) map[string]uint64 {
	t.Helper()
	text := c.sh(t, fmt.Sprintf("cat %s/node%d/meminfo", nodesDir, node))
	return meminfo(t, strings.ReplaceAll(text, fmt.Sprintf("Node %d ", node), ""))
}

// TestNodesAreThoseOfTheCpuset confines a container to some of the nodes, without a memory limit
// and with one.
func TestNodesAreThoseOfTheCpuset(t *testing.T) {
	c, g := inGroup(t)
	all := hostNodes(t)
	for _, nodes := range nodeChoices(all) {
		cpus, ids := g.limitNodes(t, nodes), nodeIDs(nodes)
		lists := strings.Split(c.sh(t, "cd "+nodesDir+" && cat online possible has_cpu has_memory && cat "+
			"node"+listOf(ids, "/cpulist node")+"/cpulist && echo node[0-9]*"), "\n")
		for i, file := range []string{"online", "possible", "has_cpu", "has_memory"} {
			if got := cpuList(t, lists[i]); !slices.Equal(got, ids) {
				t.Errorf("nodes %v: %s %v", ids, file, got)
			}
		}
		for i, n := range nodes {
			want := slices.DeleteFunc(slices.Clone(n.cpus), func(cpu int) bool { return !slices.Contains(cpus, cpu) })
			if got := cpuList(t, lists[4+i]); !slices.Equal(got, want) {
				t.Errorf("nodes %v: node %d has CPUs %v, want %v", ids, n.id, got, want)
			}
		}
		if got, want := lists[4+len(nodes)], "node"+listOf(ids, " node"); got != want {
			t.Errorf("nodes %v: the directory has %q", ids, got)
		}
		hosts := uint64(0)
		for _, n := range nodes {
			hosts += n.memory
		}
		if len(nodes) == len(all) {
			// The two differ on a machine that was given memory after it started.
			hosts = meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]
		}
		for limit, want := range map[int]uint64{0: hosts, 100: 100 << 10} {
			g.limitMemory(t, limit)
			total, free := uint64(0), uint64(0)
			for _, id := range ids {
				m := nodeMeminfo(t, c, id)
				total, free = total+m["MemTotal"], free+m["MemFree"]
			}
			m := meminfo(t, c.sh(t, "cat /proc/meminfo"))
			if total != want || m["MemTotal"] != want {
				t.Errorf("nodes %v, limit %d MiB: MemTotal %d kB on the nodes, %d in meminfo, want %d", ids, limit, total, m["MemTotal"], want)
			}
			about(t, fmt.Sprintf("nodes %v, limit %d MiB: MemFree, in kB", ids, limit), float64(free), float64(m["MemFree"]), 8192)
		}
	}
}

// numaStat is what memory.numa_stat of the group says of a node's file pages, in bytes.
func numaStat(t testing.TB, g *group, node int) uint64 {
	t.Helper()
	key, unit := "hierarchical_file=", uint64(4096)
	if g.v2["memory"] {
		key, unit = "file ", 1
	}
	text := readFile(t, filepath.Join(g.dirs["memory"], "memory.numa_stat"))
	m := regexp.MustCompile(fmt.Sprintf(`(?m)^%s.*\bN%d=(\d+)`, key, node)).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %q of node %d in\n%s", key, node, text)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n * unit
}

// TestPagesShowOnTheNodeThatHasThem writes a file with the memory of one node, and moves the
// container to all nodes.
func TestPagesShowOnTheNodeThatHasThem(t *testing.T) {
	c, g := inGroup(t)
	nodes := hostNodes(t)
	last := nodes[len(nodes)-1]
	g.limitNodes(t, []hostNode{last})
	g.limitMemory(t, 100)
	// On a disk: v1 counts the pages of a tmpfs with the anonymous ones.
	c.sh(t, "head -c 20000000 /dev/zero > "+filepath.Join(diskDir(t), "file"))
	g.limitNodes(t, nodes)
	for _, n := range nodes {
		m := nodeMeminfo(t, c, n.id)
		about(t, fmt.Sprintf("node %d: FilePages, in kB", n.id), float64(m["FilePages"]), float64(numaStat(t, g, n.id)/1024), 1024)
		if m["MemUsed"] != m["MemTotal"]-m["MemFree"] {
			t.Errorf("node %d: MemUsed %d kB of %d, and %d free", n.id, m["MemUsed"], m["MemTotal"], m["MemFree"])
		}
		if n.id == last.id && m["FilePages"] < 19000 {
			t.Errorf("node %d: %d kB of files after one of 20 MB was written there", n.id, m["FilePages"])
		}
		if n.id != last.id && m["FilePages"] > 4000 {
			t.Errorf("node %d: %d kB of files, and all were written on node %d", n.id, m["FilePages"], last.id)
		}
	}
}

// TestNUMAToolsAgreeWithTheCpuset: numactl, lscpu and hwloc show a container the nodes, CPUs and
// memory of its cpuset.
func TestNUMAToolsAgreeWithTheCpuset(t *testing.T) {
	need(t, "numactl", "numactl")
	need(t, "lscpu", "util-linux")
	need(t, "lstopo-no-graphics", "hwloc-nox")
	c, g := inGroup(t)
	g.limitMemory(t, 200)
	choices := nodeChoices(hostNodes(t))
	for _, nodes := range choices[len(choices)-min(2, len(choices)):] {
		cpus, ids := g.limitNodes(t, nodes), nodeIDs(nodes)
		text := alone(t, c, "LC_ALL=C lscpu")
		numactl := alone(t, c, "numactl -H")
		topology := alone(t, c, "lstopo-no-graphics --no-io --of console")
		size := 0.0
		for _, n := range nodes {
			inside := slices.DeleteFunc(slices.Clone(n.cpus), func(cpu int) bool { return !slices.Contains(cpus, cpu) })
			list := regexp.MustCompile(fmt.Sprintf(`(?m)^NUMA node%d CPU\(s\): +(\S+)$`, n.id)).FindStringSubmatch(text)
			if list == nil || !slices.Equal(cpuList(t, list[1]), inside) {
				t.Errorf("lscpu: node %d has CPUs %q, want %v\n%s", n.id, list, inside, text)
			}
			if want := fmt.Sprintf("node %d cpus: %s\n", n.id, listOf(inside, " ")); !strings.Contains(numactl, want) {
				t.Errorf("numactl -H does not say %q:\n%s", want, numactl)
			}
			size += match(t, numactl, fmt.Sprintf(`(?m)^node %d size: (\d+) MB$`, n.id))[0]
		}
		if n := match(t, text, `(?m)^NUMA node\(s\): +(\d+)$`)[0]; n != float64(len(nodes)) {
			t.Errorf("lscpu: %v nodes, want %d\n%s", n, len(nodes), text)
		}
		if want := fmt.Sprintf("available: %d nodes (", len(nodes)); !strings.HasPrefix(numactl, want) {
			t.Errorf("numactl -H does not begin with %q:\n%s", want, numactl)
		}
		about(t, "numactl -H: the sum of the sizes, in MB", size, 200, float64(len(nodes))) // each is cut
		var shown []int
		for _, m := range regexp.MustCompile(`NUMANode L#\d+ \(P#(\d+)\b`).FindAllStringSubmatch(topology, -1) {
			shown = append(shown, cpuList(t, m[1])...)
		}
		if !slices.Equal(shown, ids) {
			t.Errorf("hwloc: nodes %v, want %v\n%s", shown, ids, topology)
		}
		if got := match(t, topology, `(?m)^Machine \((\d+)MB`)[0]; got != 200 {
			t.Errorf("hwloc: %v MB, want 200\n%s", got, topology)
		}
		var units []int
		for _, m := range regexp.MustCompile(`PU L#\d+ \(P#(\d+)\)`).FindAllStringSubmatch(topology, -1) {
			units = append(units, cpuList(t, m[1])...)
		}
		slices.Sort(units)
		if !slices.Equal(units, cpus) {
			t.Errorf("hwloc: CPUs %v, want %v\n%s", units, cpus, topology)
		}
	}
}
