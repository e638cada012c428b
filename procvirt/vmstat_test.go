// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
)

// vmstatOf returns the numbers of b's vmstat.
func vmstatOf(t testing.TB, b *busy) map[string]uint64 {
	t.Helper()
	b.now += 2e9 // time to look at the group again
	return vmstatNumbers(t, render(t, b.r, "vmstat", b.s))
}

func vmstatNumbers(t testing.TB, text []byte) map[string]uint64 {
	t.Helper()
	m := make(map[string]uint64)
	for line := range strings.Lines(string(text)) {
		var name string
		var n uint64
		if _, err := fmt.Sscanf(line, "%s %d\n", &name, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		m[name] = n
	}
	return m
}

// count sets what b's group has counted.
func (b *busy) count(faults, kills int) {
	b.write("memory.stat", fmt.Sprintf("anon 40960\npgfault %d\n", faults))
	b.write("memory.events", fmt.Sprintf("oom 1\noom_kill %d\n", kills))
}

// replace makes a file of b's group another one, with the same text.
func (b *busy) replace(name string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	text, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func wantCounts(t *testing.T, when string, got map[string]uint64, faults, kills uint64) {
	t.Helper()
	if got["pgfault"] != faults || got["oom_kill"] != kills {
		t.Errorf("%s: pgfault %d, oom_kill %d, want %d and %d", when, got["pgfault"], got["oom_kill"], faults, kills)
	}
}

func TestVmstatShowsNoCounterOfTheHosts(t *testing.T) {
	b := newBusy(t, nil)
	counted := regexp.MustCompile(`^(nr_(free_pages|(zone_)?(in)?active_(anon|file)|slab_.*|anon_pages|file_pages|dirty|zone_write_pending|` +
		`anon_transparent_hugepages|kernel_stack|page_table_pages|swapcached)|pgpgin|pgpgout|pswpout|pswpin|pgfault|pgmajfault|pgactivate|pgrefill|` +
		`pgscan_direct|pgsteal_direct|oom_kill|thp_fault_alloc|thp_swpout|workingset_.*)$`)
	host := vmstatNumbers(t, b.h.Read(t, "proc/vmstat"))
	for name, n := range vmstatOf(t, b) {
		if _, ok := host[name]; !ok {
			t.Errorf("%s is not in the host's file", name)
		}
		delete(host, name)
		if n != 0 && !counted.MatchString(name) {
			t.Errorf("%s is %d, and the group does not count it", name, n)
		}
	}
	for name := range host {
		t.Errorf("%s is missing", name)
	}
}

func TestVmstatCountersNeverGoBack(t *testing.T) {
	b := newBusy(t, nil)
	b.count(100, 1)
	wantCounts(t, "at first", vmstatOf(t, b), 100, 1)
	b.count(90, 1)
	wantCounts(t, "an older number", vmstatOf(t, b), 100, 1)
	b.count(120, 2)
	wantCounts(t, "a newer number", vmstatOf(t, b), 120, 2)

	// The controller is disabled and enabled again: its files are others.
	for _, name := range []string{"memory.stat", "memory.events"} {
		vanish(t, filepath.Join(b.dir, name))
		b.replace(name)
	}
	b.count(5, 1)
	wantCounts(t, "enabled again", vmstatOf(t, b), 125, 3)

	// The group is removed, and made anew under the living container.
	away := b.dir + ".away"
	if err := os.Rename(b.dir, away); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(b.dir, os.DirFS(away)); err != nil {
		t.Fatal(err)
	}
	b.count(7, 1)
	b.now += 3600e9
	wantCounts(t, "in a group made anew", vmstatOf(t, b), 132, 4)
}

func TestVmstatGoesOnInTheNextProcess(t *testing.T) {
	table, err := shm.New("vmstat", vmCountersFormat())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	b := newBusy(t, nil)
	b.r.tables = tables{counters: table}
	b.count(100, 2)
	vmstatOf(t, b)
	vanish(t, filepath.Join(b.dir, "memory.events"))
	b.replace("memory.events")
	b.count(1, 0)
	wantCounts(t, "in the first process", vmstatOf(t, b), 101, 2)

	next := fixtureRegistry(t, b.h, nil)
	next.tables = b.r.tables
	b.count(3, 1)
	wantCounts(t, "in the next", vmstatNumbers(t, render(t, next, "vmstat", b.s)), 103, 3)
	next.drop(b.s.NS)
	if table.Len() != 0 {
		t.Errorf("%d records are kept of a container that is gone", table.Len())
	}
}

// TestVmstatWithoutAMemoryController: no counter of the host's is shown, nor one of an
// ancestor's, and none goes back.
func TestVmstatWithoutAMemoryController(t *testing.T) {
	b := newBusy(t, nil)
	b.count(100, 1)
	vmstatOf(t, b)
	names, err := filepath.Glob(filepath.Join(b.dir, "memory.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"memory.stat", "memory.events"} {
		vanish(t, filepath.Join(b.dir, name))
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	got := vmstatOf(t, b)
	wantCounts(t, "without the controller", got, 100, 1)
	if got["nr_anon_pages"] != 0 {
		t.Errorf("nr_anon_pages is %d", got["nr_anon_pages"])
	}
}

// TestVmstatLeavesOutStackedDevices: what a device hands on to another counts there.
func TestVmstatLeavesOutStackedDevices(t *testing.T) {
	b := newBusy(t, nil)
	b.write("io.stat", "7:0 rbytes=4096 wbytes=4096\n252:3 rbytes=8192 wbytes=0\n253:0 rbytes=10240 wbytes=3072\n254:0 rbytes=1024 wbytes=0\n")
	if got := vmstatOf(t, b); got["pgpgin"] != 11 || got["pgpgout"] != 3 {
		t.Errorf("pgpgin %d, pgpgout %d, want 11 and 3 KiB", got["pgpgin"], got["pgpgout"])
	}
}

// FuzzVmstat gives the host any text and the group any numbers: lines stay lines of two
// words, and nothing wraps around.
func FuzzVmstat(f *testing.F) {
	text, err := os.ReadFile("testdata/vmstat-6.18")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, uint64(1<<30), uint64(1<<21))
	f.Add([]byte("nr_free_pages\n\n x y\nnr_anon_transparent_hugepages 7"), ^uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, host []byte, n, huge uint64) {
		v := vmstat{text: host, free: n, pageSize: 4096, hugePageSize: huge}
		v.stat = cgroup.MemoryStat{Anon: n, AnonTHP: n, FileDirty: n, FileWriteback: n, KernelStack: n}
		out := v.append(nil)
		for l := range bytes.Lines(out) {
			if bytes.Count(l, []byte{' '}) != 1 || l[len(l)-1] != '\n' {
				t.Fatalf("%q is not a line of vmstat", l)
			}
		}
	})
}

func FuzzVmCountersRecord(f *testing.F) {
	f.Add((&vmCounters{source: 7}).append(nil))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v vmCounters
		v.decode(b)
		if got := v.append(nil); len(b) == len(got) && !bytes.Equal(b, got) {
			t.Errorf("%x became %x", b, got)
		}
	})
}

// TestVmstatShowsVmallocOfTheGroup where the kernel's file has it (7.3).
func TestVmstatShowsVmallocOfTheGroup(t *testing.T) {
	b := newBusy(t, nil)
	path := filepath.Join(b.h.Root, "proc/vmstat")
	if err := os.WriteFile(path, append(b.h.Read(t, "proc/vmstat"), "nr_vmalloc 900\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	b.write("memory.stat", "anon 40960\nvmalloc 81920\n")
	if got := vmstatOf(t, b)["nr_vmalloc"]; got != 20 {
		t.Errorf("nr_vmalloc is %d pages, want 20", got)
	}
}
