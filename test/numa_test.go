// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const nodesDir = "/sys/devices/system/node"

// nodesOf returns the memory nodes that the container sees.
func nodesOf(t testing.TB, c *container) []int {
	t.Helper()
	return cpuList(t, c.sh(t, "cat "+nodesDir+"/online"))
}

// TestNodesAreThoseOfCpuinfoAndMeminfo: the CPUs of all nodes are the visible ones, and their
// memory is the container's.
func TestNodesAreThoseOfCpuinfoAndMeminfo(t *testing.T) {
	cpus := testCPUs(t)
	c := startContainer(t, "--memory", "256M", "--cpus", "1", "--cpuset", strconv.Itoa(cpus[len(cpus)-1]))
	total, free, seen := uint64(0), uint64(0), []int{}
	for _, node := range nodesOf(t, c) {
		dir := fmt.Sprintf("%s/node%d/", nodesDir, node)
		seen = append(seen, cpuList(t, c.sh(t, "cat "+dir+"cpulist"))...)
		for line := range strings.Lines(c.sh(t, "cat "+dir+"meminfo")) {
			f := strings.Fields(line)
			n, err := strconv.ParseUint(f[3], 10, 64)
			if err != nil || f[0] != "Node" || f[1] != strconv.Itoa(node) {
				t.Fatalf("odd line %q", line)
			}
			switch f[2] {
			case "MemTotal:":
				total += n
			case "MemFree:":
				free += n
			}
		}
		if bitmap := c.sh(t, "cat "+dir+"cpumap"); len(bitmap) != len(readFile(t, dir+"cpumap")) {
			t.Errorf("cpumap %q is not as wide as the host's", bitmap)
		}
		for line := range strings.Lines(c.sh(t, "cat "+dir+"numastat")) {
			if !strings.HasSuffix(line, " 0\n") {
				t.Errorf("numastat: %q", line)
			}
		}
		if got, want := c.sh(t, "cat "+dir+"distance"), readFile(t, dir+"distance"); got != want {
			t.Errorf("distance %q, the host's is %q", got, want)
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint(cpus[len(cpus)-1:]) {
		t.Errorf("CPUs %v, want %v", seen, cpus[len(cpus)-1:])
	}
	m := meminfo(t, c.sh(t, "cat /proc/meminfo"))
	if total != m["MemTotal"] {
		t.Errorf("MemTotal %d kB, meminfo says %d", total, m["MemTotal"])
	}
	about(t, "MemFree of the nodes, in kB", float64(free), float64(m["MemFree"]), 4096)
	// The whole directory is the daemon's.
	if out := c.sh(t, "stat -f -c %T "+nodesDir); !strings.HasPrefix(out, "fuse") {
		t.Errorf("%s is of type %s", nodesDir, out)
	}
}

func TestNUMAToolsShowTheContainersNodes(t *testing.T) {
	need(t, "numactl", "numactl")
	need(t, "lscpu", "util-linux")
	need(t, "lstopo-no-graphics", "hwloc-nox")
	cpus := testCPUs(t)
	last := cpus[len(cpus)-1]
	c := startContainer(t, "--memory", "256M", "--cpus", "1", "--cpuset", strconv.Itoa(last))
	nodes := float64(len(nodesOf(t, c)))
	for _, tt := range []struct {
		command, pattern string
		want, slack      float64
	}{
		{"numactl -H", `(?m)^available: (\d+) nodes`, nodes, 0},
		{"numactl -H | awk '/cpus:/ { for (i = 4; i <= NF; i++) print $i }'", `^(\d+)\n$`, float64(last), 0},
		{"numactl -H | awk '/size:/ { n += $4 } END { print n }'", `^(\d+)\n`, 256, nodes}, // each is cut
		{"LC_ALL=C lscpu | awk '/^NUMA node[0-9]+ CPU/ && NF == 4 { print $4 }'", `^(\d+)\n$`, float64(last), 0},
	} {
		about(t, tt.command, match(t, alone(t, c, tt.command), tt.pattern)[0], tt.want, tt.slack)
	}
	if out := alone(t, c, "lstopo-no-graphics --no-io --of console"); !regexp.MustCompile(`(?m)^Machine \(256MB`).MatchString(out) {
		t.Errorf("lstopo:\n%s", out)
	}
}
