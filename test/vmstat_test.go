// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// vmstatNumbers returns the numbers of a /proc/vmstat by name.
func vmstatNumbers(t testing.TB, text string) map[string]uint64 {
	t.Helper()
	m := make(map[string]uint64)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 {
			t.Fatalf("vmstat: odd line %q", line)
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			t.Fatalf("vmstat: %q: %v", line, err)
		}
		m[f[0]] = n
	}
	return m
}

// memoryCounters returns what memory.stat of the container's group counts, by the names
// that /proc/vmstat has for it.
func memoryCounters(t testing.TB, pid int) map[string]uint64 {
	t.Helper()
	dir, v2 := cgroupDir(t, pid, "memory")
	m := make(map[string]uint64)
	for line := range strings.Lines(readFile(t, filepath.Join(dir, "memory.stat"))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !v2 {
			var ok bool
			if name, ok = strings.CutPrefix(name, "total_"); !ok {
				continue
			}
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			t.Fatalf("memory.stat: %q: %v", line, err)
		}
		m[name] = n
	}
	return m
}

// oomKills is how many processes the OOM killer has killed in the container's group.
func oomKills(t testing.TB, pid int) uint64 {
	t.Helper()
	return cgroupNumber(t, pid, "memory", "memory.oom_control oom_kill", "memory.events oom_kill")
}

func TestVmstatIsTheCgroups(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	file := filepath.Join(t.TempDir(), "file")
	c.sh(t, "head -c 20000000 /dev/zero > "+file+"; x=$(head -c 5000000 /dev/zero | tr '\\0' x)")
	before := memoryCounters(t, c.init)
	text := c.sh(t, "while read -r line; do echo \"$line\"; done < /proc/vmstat")
	after := memoryCounters(t, c.init)
	got := vmstatNumbers(t, text)

	host := readFile(t, "/proc/vmstat")
	var order, hostOrder []string
	for line := range strings.Lines(text) {
		order = append(order, strings.Fields(line)[0])
	}
	for line := range strings.Lines(host) {
		hostOrder = append(hostOrder, strings.Fields(line)[0])
	}
	if strings.Join(order, " ") != strings.Join(hostOrder, " ") {
		t.Errorf("names\n%v\nwant the host's\n%v", order, hostOrder)
	}
	for _, name := range []string{
		"pgfault", "pgmajfault", "pgactivate", "pgrefill", "pgscan_direct", "pgsteal_direct", "pswpin", "pswpout",
		"workingset_refault_anon", "workingset_refault_file", "thp_fault_alloc",
	} {
		if n, ok := got[name]; ok && (n < before[name] || n > after[name]) {
			t.Errorf("%s: %d, want %d to %d", name, n, before[name], after[name])
		}
	}
	if got["pgfault"] == 0 {
		t.Error("no page fault")
	}
	_, stat := memoryStat(t, c.init)
	page := uint64(os.Getpagesize())
	// 64 pages of a CPU may be charged in advance (MEMCG_CHARGE_BATCH).
	for name, key := range map[string]string{"nr_anon_pages": "anon", "nr_file_pages": "file", "nr_inactive_file": "inactive_file", "nr_shmem": "shmem"} {
		about(t, name, float64(got[name]), float64(stat[key]/page), 256)
	}
	free := meminfo(t, c.sh(t, "cat /proc/meminfo"))["MemFree"] * 1024 / page
	about(t, "nr_free_pages", float64(got["nr_free_pages"]), float64(free), 512)
	if got["nr_file_pages"] < 19000000/page {
		t.Errorf("%d pages of files after one of 20 MB was written", got["nr_file_pages"])
	}
	// No group counts these, and every host has some.
	for _, name := range []string{"pgfree", "pgalloc_normal", "numa_hit", "nr_dirtied"} {
		if got[name] != 0 {
			t.Errorf("%s is %d, and no group counts it", name, got[name])
		}
	}
}

// TestAnOOMKillShowsInItsContainerOnly kills a process in one of two containers.
func TestAnOOMKillShowsInItsContainerOnly(t *testing.T) {
	need(t, "python3", "python3-minimal")
	c, neighbour := startContainer(t, "--memory", "64M"), startContainer(t, "--memory", "64M")
	dir, v2 := c.ownCgroup(t, "memory")
	// Without swap, or it would not be out of memory.
	for file, limit := range map[string]string{"memory.swap.max": "0", "memory.memsw.limit_in_bytes": strconv.Itoa(64 << 20)} {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			write(t, filepath.Join(dir, file), limit)
		}
	}
	kills := func(c *container) uint64 { return vmstatNumbers(t, c.sh(t, "cat /proc/vmstat"))["oom_kill"] }
	if n := kills(c); n != 0 {
		t.Fatalf("%d processes were killed before", n)
	}
	for want := range uint64(2) {
		want++
		if out := c.sh(t, "python3 -c 'bytearray(b\"x\" * (1 << 28))' 2>/dev/null; echo $?"); out != "137\n" {
			t.Fatalf("exit status %s of what took more than there is (v2 %t)", out, v2)
		}
		if n := oomKills(t, c.init); n != want {
			t.Fatalf("the group counts %d kills, want %d", n, want)
		}
		if n := kills(c); n != want {
			t.Errorf("oom_kill %d, want %d", n, want)
		}
	}
	if n := kills(neighbour); n != 0 {
		t.Errorf("oom_kill %d in the neighbour", n)
	}
}

// paging is a container that writes to a disk and touches memory all the time, while the
// host does more of both.
func paging(t *testing.T) *container {
	t.Helper()
	c := startContainer(t, smallContainer()...)
	throttleDisks(t, c)
	dir := diskDir(t)
	loop := "while :; do dd if=/dev/zero of=%s bs=%d count=1 oflag=direct conv=notrunc 2>/dev/null; sleep 0.2; done"
	c.sh(t, fmt.Sprintf("("+loop+") >/dev/null 2>&1 </dev/null & ", dir+"/inside", 64<<10))
	host := talkTo(t, exec.Command("sh"))
	fmt.Fprintf(host.in, loop+"\n", dir+"/outside", 1<<20)
	t.Cleanup(func() { killDaemon(host.cmd) })
	waitFor(t, "the container to have written", func() bool {
		return vmstatNumbers(t, alone(t, c, "cat /proc/vmstat"))["pgpgout"] >= 256
	})
	return c
}

// TestPagingToolsShowTheCgroupsNumbers: what each shows lies between what /proc/vmstat of the
// container says before and after it, and TestVmstatIsTheCgroups says that this is the
// group's.
func TestPagingToolsShowTheCgroupsNumbers(t *testing.T) {
	need(t, "vmstat", "procps")
	need(t, "sar", "sysstat")
	need(t, "atop", "atop")
	c := paging(t)
	now := func() map[string]uint64 { return vmstatNumbers(t, alone(t, c, "cat /proc/vmstat")) }
	page := float64(os.Getpagesize())

	metrics := exporter(t, c, 19137, "vmstat")
	for _, tt := range []struct {
		command, pattern, name string
		unit                   float64 // what it is to be multiplied with
	}{
		{"vmstat -s", `(?m)^ *(\d+) K paged out$`, "pgpgout", 1},
		{"vmstat -s", `(?m)^ *(\d+) pages swapped out$`, "pswpout", 1},
		{"LC_ALL=C atop -P PAG 1 1", `(?m)^PAG (?:\S+ ){11}(\d+) `, "oom_kill", 1},
		{"LC_ALL=C atop -P PAG 1 1", `(?m)^PAG (?:\S+ ){16}(\d+)\b`, "pgpgout", page / 1024},
		{metrics, `(?m)^node_vmstat_pgfault (\S+)$`, "pgfault", 1},
		{metrics, `(?m)^node_vmstat_pgpgout (\S+)$`, "pgpgout", 1},
		{metrics, `(?m)^node_vmstat_oom_kill (\S+)$`, "oom_kill", 1},
		{"/usr/bin/python3 -c 'import psutil; print(psutil.swap_memory().sout)'", `^(\d+)\n$`, "pswpout", 1 / page},
	} {
		before := now()
		out := alone(t, c, tt.command)
		after := now()
		got := match(t, out, tt.pattern)[0] * tt.unit
		if got < float64(before[tt.name])-tt.unit || got > float64(after[tt.name])+tt.unit {
			t.Errorf("%s: %s %.0f, want %d to %d\n%s", tt.command, tt.name, got, before[tt.name], after[tt.name], out)
		}
	}

	for _, tt := range []struct{ command, pattern, name string }{
		{"LC_ALL=C vmstat 3 2", `(?m)^(?: *\d+){9} +(\d+)(?: +\d+){7,8}\n$`, "pgpgout"},
		{"LC_ALL=C sar -B 3 1", `(?m)^Average: +[\d.]+ +([\d.]+)`, "pgpgout"},
		{"LC_ALL=C sar -B 3 1", `(?m)^Average: +[\d.]+ +[\d.]+ +([\d.]+)`, "pgfault"},
		{"LC_ALL=C sar -W 3 1", `(?m)^Average: +[\d.]+ +([\d.]+)`, "pswpout"},
	} {
		before, began := now(), time.Now()
		out := alone(t, c, tt.command)
		rate := float64(now()[tt.name]-before[tt.name]) / time.Since(began).Seconds()
		got := match(t, out, tt.pattern)[0]
		// The time also has the program's start and end. The host writes 16 times as much.
		if got > 3*rate+1 || got < rate/3-1 {
			t.Errorf("%s: %s %.1f a second, want about %.1f\n%s", tt.command, tt.name, got, rate, out)
		}
	}
}
