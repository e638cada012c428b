// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

const mi = 1 << 20

// memoryHost is a captured host whose container's files of the memory controller a
// test sets.
type memoryHost struct {
	tb    testing.TB
	h     *fixture.Host
	v     *Registry
	s     *Subject
	place cgroup.Place
}

func newMemoryHost(tb testing.TB, name string) *memoryHost {
	tb.Helper()
	m := &memoryHost{tb: tb, h: load(tb, name)}
	m.s = subject(tb, m.h, m.h.Init)
	mounts, err := cgroup.Discover(m.h.Root)
	if err != nil {
		tb.Fatal(err)
	}
	if m.place, err = mounts.Locate(cgroup.Memory, cgroup.Auto, m.s.Groups, m.s.Groups); err != nil {
		tb.Fatal(err)
	}
	return m
}

// set writes files of the group so many levels above the container's, each NAME,
// TEXT.
func (m *memoryHost) set(level int, files ...string) {
	m.tb.Helper()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(m.place.Dirs[level], files[i]), []byte(files[i+1]+"\n"), 0o644); err != nil {
			m.tb.Fatal(err)
		}
	}
}

// host changes lines of the host's meminfo, each LABEL, kB.
func (m *memoryHost) host(lines ...any) {
	m.tb.Helper()
	text := string(m.h.Read(m.tb, "proc/meminfo"))
	for i := 0; i < len(lines); i += 2 {
		label := lines[i].(string) + ":"
		at := strings.Index("\n"+text, "\n"+label)
		if at < 0 {
			m.tb.Fatalf("no %s", label)
		}
		end := at + strings.IndexByte(text[at:], '\n')
		text = text[:at] + fmt.Sprintf("%-15s %8d kB", label, lines[i+1]) + text[end:]
	}
	if err := os.WriteFile(filepath.Join(m.h.Root, "proc/meminfo"), []byte(text), 0o644); err != nil {
		m.tb.Fatal(err)
	}
}

// read returns what the container is shown, in kB.
func (m *memoryHost) read() map[string]int {
	m.tb.Helper()
	if m.v == nil {
		m.v = fixtureRegistry(m.tb, m.h, nil)
	}
	return kilobytes(m.tb, render(m.tb, m.v, "meminfo", m.s))
}

func kilobytes(tb testing.TB, text []byte) map[string]int {
	tb.Helper()
	kb := map[string]int{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		n, err := strconv.Atoi(f[1])
		if err != nil {
			tb.Fatalf("%q: %v", line, err)
		}
		kb[strings.TrimSuffix(f[0], ":")] = n
	}
	return kb
}

func (m *memoryHost) want(rule string, want map[string]int) {
	m.tb.Helper()
	got := m.read()
	for label, kb := range want {
		if got[label] != kb {
			m.tb.Errorf("%s: %s is %d kB, want %d", rule, label, got[label], kb)
		}
	}
}

func bytesOf(mib int) string { return strconv.Itoa(mib * mi) }

func TestFreeIsTheSmallestHeadroomOfAllLevels(t *testing.T) {
	t.Run("v2", func(t *testing.T) {
		m := newMemoryHost(t, "trixie-v2")
		stat := func(reclaimable int) string {
			return fmt.Sprintf("anon 1\nactive_file %d\ninactive_file %d\nslab_reclaimable %d", reclaimable/4*mi, reclaimable/4*mi, reclaimable/2*mi)
		}
		m.set(0, "memory.max", "max", "memory.high", "max", "memory.current", bytesOf(20), "memory.stat", stat(4))
		m.set(1, "memory.max", "max", "memory.high", "max", "memory.current", bytesOf(200), "memory.stat", stat(40))
		host := kilobytes(t, m.h.Read(t, "proc/meminfo"))
		m.want("no level limits: the host's", map[string]int{
			"MemTotal": host["MemTotal"], "MemFree": host["MemFree"], "MemAvailable": host["MemAvailable"],
		})
		m.set(1, "memory.max", bytesOf(256))
		m.want("a sidecar holds most of the pod's", map[string]int{"MemTotal": 256 << 10, "MemFree": 56 << 10, "MemAvailable": 96 << 10})
		m.set(0, "memory.max", bytesOf(100))
		m.want("its own limit leaves more", map[string]int{"MemTotal": 100 << 10, "MemFree": 56 << 10, "MemAvailable": 84 << 10})
		m.set(0, "memory.max", bytesOf(60))
		m.want("its own limit leaves less", map[string]int{"MemTotal": 60 << 10, "MemFree": 40 << 10, "MemAvailable": 44 << 10})
		m.set(0, "memory.high", bytesOf(30))
		m.want("memory.high leaves less, and is not the total", map[string]int{"MemTotal": 60 << 10, "MemFree": 10 << 10, "MemAvailable": 14 << 10})
		m.set(1, "memory.high", bytesOf(190))
		m.want("above memory.high", map[string]int{"MemTotal": 60 << 10, "MemFree": 0, "MemAvailable": 14 << 10})
		m.set(1, "memory.stat", stat(16))
		m.want("what a level can reclaim", map[string]int{"MemFree": 0, "MemAvailable": 6 << 10})
		m.set(1, "memory.stat", stat(8))
		m.want("a level cannot reclaim enough", map[string]int{"MemFree": 0, "MemAvailable": 0})
	})
	t.Run("v1", func(t *testing.T) {
		m := newMemoryHost(t, "dev-hybrid")
		none := "9223372036854771712"
		stat := func(limit string, reclaimable int) string {
			return fmt.Sprintf("active_file 7\nhierarchical_memory_limit %s\ntotal_active_file %d\ntotal_inactive_file %d", limit, reclaimable/2*mi, reclaimable/2*mi)
		}
		m.set(0, "memory.limit_in_bytes", none, "memory.usage_in_bytes", bytesOf(20), "memory.stat", stat(none, 4))
		m.set(1, "memory.limit_in_bytes", none, "memory.usage_in_bytes", bytesOf(200), "memory.stat", stat(none, 40))
		host := kilobytes(t, m.h.Read(t, "proc/meminfo"))
		m.want("no level limits: the host's", map[string]int{
			"MemTotal": host["MemTotal"], "MemFree": host["MemFree"], "MemAvailable": host["MemAvailable"],
		})
		m.set(1, "memory.limit_in_bytes", bytesOf(256))
		m.set(0, "memory.stat", stat(bytesOf(256), 4))
		m.want("a sidecar holds most of the pod's", map[string]int{"MemTotal": 256 << 10, "MemFree": 56 << 10, "MemAvailable": 96 << 10})
		m.set(0, "memory.limit_in_bytes", bytesOf(100), "memory.stat", stat(bytesOf(100), 4))
		m.want("its own limit leaves more", map[string]int{"MemTotal": 100 << 10, "MemFree": 56 << 10, "MemAvailable": 84 << 10})
		m.set(0, "memory.limit_in_bytes", bytesOf(60), "memory.stat", stat(bytesOf(60), 4))
		m.want("its own limit leaves less", map[string]int{"MemTotal": 60 << 10, "MemFree": 40 << 10, "MemAvailable": 44 << 10})
		m.set(1, "memory.limit_in_bytes", bytesOf(50))
		m.want("a limit above that does not hold (use_hierarchy is 0)", map[string]int{"MemTotal": 60 << 10, "MemFree": 40 << 10, "MemAvailable": 44 << 10})
	})
}

func TestSwapFreeIsTheSmallestHeadroomOfAllLevels(t *testing.T) {
	m := newMemoryHost(t, "trixie-v2")
	m.host("SwapTotal", 1<<20, "SwapFree", 1<<19)
	m.set(0, "memory.swap.max", "max", "memory.swap.current", bytesOf(10))
	m.set(1, "memory.swap.max", "max", "memory.swap.current", bytesOf(90))
	m.want("no level limits", map[string]int{"SwapTotal": 1 << 20, "SwapFree": 1<<20 - 10<<10})
	m.set(1, "memory.swap.max", bytesOf(100))
	m.want("a sidecar has swapped", map[string]int{"SwapTotal": 100 << 10, "SwapFree": 10 << 10})
	m.set(0, "memory.swap.max", bytesOf(15))
	m.want("its own limit leaves less", map[string]int{"SwapTotal": 15 << 10, "SwapFree": 5 << 10})
	m.set(1, "memory.swap.max", bytesOf(80))
	m.want("a limit that came later", map[string]int{"SwapTotal": 15 << 10, "SwapFree": 0})

	m = newMemoryHost(t, "dev-hybrid")
	m.host("SwapTotal", 1<<20, "SwapFree", 1<<19)
	m.set(0, "memory.memsw.limit_in_bytes", bytesOf(200), "memory.usage_in_bytes", bytesOf(20), "memory.memsw.usage_in_bytes", bytesOf(30))
	m.set(1, "memory.memsw.limit_in_bytes", bytesOf(300), "memory.usage_in_bytes", bytesOf(50), "memory.memsw.usage_in_bytes", bytesOf(330))
	m.set(0, "memory.stat", "hierarchical_memory_limit "+bytesOf(200)+"\nhierarchical_memsw_limit "+bytesOf(200))
	m.want("v1: a sidecar has swapped", map[string]int{"SwapTotal": 200 << 10, "SwapFree": 20 << 10})
}

// TestAnAncestorsUsageIsNotTheContainers has a container whose group lacks the
// memory controller: the limits above hold, what is used is unknown.
func TestAnAncestorsUsageIsNotTheContainers(t *testing.T) {
	m := newMemoryHost(t, "trixie-v2")
	dir := m.place.Dirs[0]
	for _, pattern := range []string{"memory.*", "hugetlb.*", "io.*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, ".pressure") {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	m.set(1, "memory.max", bytesOf(256), "memory.high", "max", "memory.current", bytesOf(200), "memory.swap.max", "max",
		"memory.swap.current", bytesOf(7), "memory.stat", "anon 150000000\nfile 50000000\ninactive_file 10485760\nslab_unreclaimable 9999999",
		"io.stat", "253:0 rbytes=1048576 wbytes=0 rios=18 wios=0 dbytes=0 dios=0")
	host := kilobytes(t, m.h.Read(t, "proc/meminfo"))
	m.want("a limit above", map[string]int{
		"MemTotal": 256 << 10, "MemFree": 56 << 10, "MemAvailable": 66 << 10, "AnonPages": 0, "Cached": 0, "Slab": 0,
		"SwapTotal": host["SwapTotal"], "SwapFree": host["SwapTotal"],
	})
	if text := render(t, m.v, "diskstats", m.s); string(text) != string(m.h.Read(t, "proc/diskstats")) {
		t.Errorf("diskstats is neither the container's nor the host's:\n%s", text)
	}
	m.set(1, "memory.max", "max", "memory.swap.max", "max")
	if text := render(t, m.v, "meminfo", m.s); string(text) != string(m.h.Read(t, "proc/meminfo")) {
		t.Errorf("no limit and no usage is known, and yet this is not the host's meminfo:\n%s", text)
	}
	if got := m.v.Stats(); got["meminfo/no-controller"] != 1 || got["diskstats/no-controller"] != 1 {
		t.Errorf("%v", got)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	m.v = nil
	if text := m.read(); text["MemTotal"] != host["MemTotal"] || m.v.Stats()["meminfo/removed-cgroup"] != 1 {
		t.Errorf("a removed group shows its parent's: %v, %v", text, m.v.Stats())
	}
}

func TestCommitLimitIsTheKernelsFormula(t *testing.T) {
	m := newMemoryHost(t, "trixie-v2")
	m.set(0, "memory.max", bytesOf(256), "memory.swap.max", bytesOf(64), "memory.swap.current", bytesOf(10),
		"memory.stat", fmt.Sprintf("anon %d\nshmem %d\nkernel_stack %d\npagetables %d", 100*mi, 20*mi, 1*mi, 2*mi))
	const total, swap = 4 << 20, 1 << 20
	for _, tt := range []struct {
		rule        string
		limit, want int
	}{
		{"overcommit_ratio is 50", total/2 + swap, 128<<10 + 64<<10},
		{"overcommit_ratio is 0", swap, 64 << 10},
		{"overcommit_ratio is 33", total/4*33/100*4 + swap, (64<<10)*33/100*4 + 64<<10},
		{"overcommit_ratio is 180", total/4*180/100*4 + swap, (64<<10)*180/100*4 + 64<<10},
		{"overcommit_kbytes is 1,000,000", 1000000 + swap, 1000000 + 64<<10},
	} {
		m.host("MemTotal", total, "SwapTotal", swap, "CommitLimit", tt.limit, "Hugetlb", 0)
		m.want(tt.rule, map[string]int{"CommitLimit": tt.want, "Committed_AS": 133 << 10})
	}
	m.host("MemTotal", total, "SwapTotal", swap, "CommitLimit", (total-1<<20)/2+swap, "Hugetlb", 1<<20)
	if got := m.read(); got["CommitLimit"] != max(0, (256<<10-got["Hugetlb"]))/2+64<<10 {
		t.Errorf("CommitLimit %d kB with %d kB of huge pages", got["CommitLimit"], got["Hugetlb"])
	}
}

func TestDirectMapIsNoMoreThanTheMemory(t *testing.T) {
	m := newMemoryHost(t, "dev-hybrid") // 26,624 kB of 4k, 2,070,528 of 2M, 25,165,824 of 1G
	m.want("256 MiB", map[string]int{"DirectMap4k": 26624, "DirectMap2M": 256<<10 - 26624, "DirectMap1G": 0})
	m.set(0, "memory.stat", "hierarchical_memory_limit "+bytesOf(16))
	m.want("16 MiB", map[string]int{"DirectMap4k": 16 << 10, "DirectMap2M": 0, "DirectMap1G": 0})
	m.set(0, "memory.stat", "hierarchical_memory_limit "+bytesOf(4096))
	m.want("4 GiB", map[string]int{"DirectMap4k": 26624, "DirectMap2M": 2070528, "DirectMap1G": 4<<20 - 26624 - 2070528})
}

// TestTheMemoryIsThatOfTheNodesOfTheCpuset has a host of three nodes.
func TestTheMemoryIsThatOfTheNodesOfTheCpuset(t *testing.T) {
	for _, tt := range []struct{ name, dir, file string }{
		{"trixie-v2", "sys/fs/cgroup/machine/ct1", "cpuset.mems.effective"},
		{"dev-hybrid", "sys/fs/cgroup/cpuset/machine/ct1", "cpuset.effective_mems"},
	} {
		m := newMemoryHost(t, tt.name)
		m.host("MemTotal", 6000000)
		m.set(0, "memory.max", "max", "memory.limit_in_bytes", "9223372036854771712")
		m.set(1, "memory.max", "max", "memory.limit_in_bytes", "9223372036854771712")
		if tt.name == "dev-hybrid" {
			m.set(0, "memory.stat", "hierarchical_memory_limit 9223372036854771712")
		}
		for node, kb := range map[int]int{0: 1000000, 1: 2000000, 3: 3000000} {
			dir := filepath.Join(m.h.Root, fmt.Sprintf("sys/devices/system/node/node%d", node))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprintf("Node %d MemTotal:       %d kB\nNode %d MemFree:        %d kB\n", node, kb, node, kb/2)
			if err := os.WriteFile(filepath.Join(dir, "meminfo"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, mems := range []struct {
			list string
			kb   int
		}{{"0-1,3", 6000000}, {"1", 2000000}, {"0,3", 4000000}, {"0-3", 6000000}, {"1-3", 5000000}} {
			if err := os.WriteFile(filepath.Join(m.h.Root, tt.dir, tt.file), []byte(mems.list+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			m.want(tt.name+" nodes "+mems.list, map[string]int{"MemTotal": mems.kb})
			if got := m.read(); got["MemFree"] > mems.kb || got["MemAvailable"] > mems.kb {
				t.Errorf("nodes %s: more than %d kB are free: %v", mems.list, mems.kb, got)
			}
		}
	}
}
