// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"regexp"
	"testing"
)

const cgroupsHeader = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"

func TestCgroupsListsWhatTheContainerHas(t *testing.T) {
	const v2 = "cpuset cpu blkio memory cpuacct"
	for _, c := range []struct {
		name, host, v2, want string
		hasV2                bool
	}{
		{
			"v1 keeps the hierarchies", "memory\t4\t23\t1\npids\t8\t4\t1\n", "",
			"memory\t4\t1\t1\npids\t8\t1\t1\n", false,
		},
		{
			"a controller in no hierarchy is not there", "memory\t4\t23\t1\nperf_event\t0\t1\t1\nnet_cls\t0\t1\t1\n", "",
			"memory\t4\t1\t1\n", false,
		},
		{
			"a disabled controller is not there", "cpuset\t0\t9\t1\nmemory\t0\t9\t0\n", "cpuset cpu cpuacct",
			"cpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\n", true,
		},
		{
			"v2 without v1 code", "cpu\t0\t6\t1\ncpuacct\t0\t6\t1\nblkio\t0\t6\t1\nfreezer\t0\t6\t1\nnet_prio\t0\t6\t1\n", v2,
			"cpu\t0\t1\t1\ncpuacct\t0\t1\t1\nblkio\t0\t1\t1\nfreezer\t0\t1\t1\ncpuset\t0\t1\t1\nmemory\t0\t1\t1\n", true,
		},
		{
			"hybrid", "cpu\t1\t6\t1\nhugetlb\t0\t6\t1\nmemory\t2\t6\t1\n", "hugetlb",
			"cpu\t1\t1\t1\nhugetlb\t0\t1\t1\nmemory\t2\t1\t1\n", true,
		},
	} {
		n := cgroups{text: []byte(cgroupsHeader + c.host), v2: []byte(c.v2), hasV2: c.hasV2}
		if got := string(n.append([]byte("before\n"))); got != "before\n"+cgroupsHeader+c.want {
			t.Errorf("%s:\n%s", c.name, got)
		}
	}
}

// FuzzCgroups gives the host any text: each line of the container's is well formed, and
// no controller has two of the lines that are added.
func FuzzCgroups(f *testing.F) {
	for _, name := range []string{"trixie-v2", "backports-v2", "dev-hybrid", "bullseye-v1"} {
		f.Add(load(f, name).Read(f, "proc/cgroups"), true, uint8(3))
	}
	f.Add([]byte("a 0\n\nmemory\t1\t1\t1\t1\n# \ncpu"), false, uint8(0))
	format := regexp.MustCompile(`^(#.*|[^\t ]+\t[^\t ]+\t1\t1)$`)
	f.Fuzz(func(t *testing.T, host []byte, hasV2 bool, names uint8) {
		v2 := [...]string{"", "memory", "cpu memory", "cpuset cpu blkio memory cpuacct"}[names%4]
		n := cgroups{text: host, v2: []byte(v2), hasV2: hasV2}
		out := n.append(nil)
		for line := range bytes.Lines(out) {
			if !format.Match(bytes.TrimSuffix(line, []byte("\n"))) {
				t.Fatalf("%q", line)
			}
		}
		for _, name := range bytes.Fields(n.v2) {
			if !isListed(out, name) {
				t.Fatalf("%s is not listed:\n%s", name, out)
			}
		}
	})
}
