// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/procfs"
)

// ticks is how many clock ticks /proc counts in a second (USER_HZ, which is 100
// on all that Go runs on).
const ticks = 100

// smallContainer are the limits that most tests here run under.
func smallContainer() []string { return []string{"--memory", "256M", "--cpus", "1"} }

// floats reads the numbers of a line.
func floats(t testing.TB, line string) []float64 {
	t.Helper()
	var v []float64
	for _, f := range strings.Fields(line) {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		v = append(v, n)
	}
	return v
}

// startOf is when a process started, in seconds of CLOCK_BOOTTIME.
func startOf(t testing.TB, pid int) float64 {
	t.Helper()
	return floats(t, statFields(fmt.Sprintf("/proc/%d/stat", pid))[22])[0] / ticks
}

// cpuUsage is the CPU time of the cgroup of pid, in seconds.
func cpuUsage(t testing.TB, pid int) float64 {
	t.Helper()
	n := cgroupNumber(t, pid, "cpuacct", "cpuacct.usage", "cpu.stat usage_usec")
	if _, v2 := cgroupDir(t, pid, "cpuacct"); v2 {
		return float64(n) / 1e6
	}
	return float64(n) / 1e9
}

func TestUptimeCountsFromTheStartOfTheInit(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	start := startOf(t, c.init)
	for range 5 {
		sleep(100)
		before, used := boottime(t), cpuUsage(t, c.init)
		got := floats(t, c.sh(t, "cat /proc/uptime"))
		after, usedAfter := boottime(t), cpuUsage(t, c.init)
		if len(got) != 2 {
			t.Fatalf("uptime has %d fields: %v", len(got), got)
		}
		// One tick each: of the start time, and of the uptime.
		if got[0] < before-start-0.02 || got[0] > after-start+0.02 {
			t.Errorf("uptime %.2f, want %.2f to %.2f", got[0], before-start, after-start)
		}
		// With one CPU, idle is what has not been used.
		if got[1] < got[0]-usedAfter-0.02 || got[1] > got[0]-used+0.02 {
			t.Errorf("idle %.2f of %.2f, used %.2f to %.2f", got[1], got[0], used, usedAfter)
		}
	}
}

func TestUptimeIdleCountsEveryVisibleCPU(t *testing.T) {
	c := startContainer(t, "--memory", "256M") // no quota: all CPUs
	cpus := float64(strings.Count(c.sh(t, "grep ^cpu[0-9] /proc/stat"), "\n"))
	used := cpuUsage(t, c.init)
	got := floats(t, c.sh(t, "cat /proc/uptime"))
	usedAfter := cpuUsage(t, c.init)
	if got[1] < cpus*got[0]-usedAfter-0.03 || got[1] > cpus*got[0]-used+0.03 {
		t.Errorf("idle %.2f of %.0f CPUs times %.2f, used %.2f to %.2f", got[1], cpus, got[0], used, usedAfter)
	}
}

// memoryStat reads memory.stat of the cgroup of pid: for v1 and v2 by v2's keys.
func memoryStat(t testing.TB, pid int) (text string, stat map[string]uint64) {
	t.Helper()
	dir, v2 := cgroupDir(t, pid, "memory")
	text = readFile(t, filepath.Join(dir, "memory.stat"))
	stat = make(map[string]uint64)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			t.Fatalf("memory.stat: %q: %v", line, err)
		}
		if !v2 {
			names := map[string]string{
				"total_cache": "file", "total_rss": "anon", "total_shmem": "shmem", "total_mapped_file": "file_mapped",
				"total_active_anon": "active_anon", "total_inactive_anon": "inactive_anon",
				"total_active_file": "active_file", "total_inactive_file": "inactive_file",
				"total_unevictable": "unevictable", "total_dirty": "file_dirty", "total_writeback": "file_writeback",
			}
			if key = names[key]; key == "" {
				continue
			}
		}
		stat[key] = n
	}
	return text, stat
}

func TestMeminfoIsTheCgroups(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	// Something of every kind: page cache, anonymous memory, shared memory.
	file := filepath.Join(t.TempDir(), "file")
	c.sh(t, "head -c 20000000 /dev/zero > "+file+"; x=$(head -c 5000000 /dev/zero | tr '\\0' x)")

	// What the kernel moves between its counters while we look is not our
	// error: look until it holds still.
	var text string
	var stat map[string]uint64
	var usage uint64
	waitFor(t, "memory.stat to hold still", func() bool {
		before, _ := memoryStat(t, c.init)
		usage = cgroupNumber(t, c.init, "memory", "memory.usage_in_bytes", "memory.current")
		text = c.sh(t, "while read -r line; do echo \"$line\"; done < /proc/meminfo")
		var after string
		after, stat = memoryStat(t, c.init)
		return before == after && usage == cgroupNumber(t, c.init, "memory", "memory.usage_in_bytes", "memory.current")
	})
	got := meminfo(t, text)
	const limit = 256 << 20
	want := map[string]uint64{
		"MemTotal":       limit,
		"MemFree":        limit - usage,
		"MemAvailable":   min(limit, limit-usage+stat["active_file"]+stat["inactive_file"]+stat["slab_reclaimable"]),
		"Buffers":        0,
		"Cached":         stat["file"],
		"Active":         stat["active_anon"] + stat["active_file"],
		"Inactive":       stat["inactive_anon"] + stat["inactive_file"],
		"Active(anon)":   stat["active_anon"],
		"Inactive(anon)": stat["inactive_anon"],
		"Active(file)":   stat["active_file"],
		"Inactive(file)": stat["inactive_file"],
		"Unevictable":    stat["unevictable"],
		"Dirty":          stat["file_dirty"],
		"Writeback":      stat["file_writeback"],
		"AnonPages":      stat["anon"],
		"Mapped":         stat["file_mapped"],
		"Shmem":          stat["shmem"],
		"Slab":           stat["slab_reclaimable"] + stat["slab_unreclaimable"],
	}
	// The file that is open while it is read is slab itself, of some hundred bytes, and
	// may make the group charge 64 pages in advance (MEMCG_CHARGE_BATCH).
	slack := map[string]uint64{"Slab": 8, "MemFree": 256, "MemAvailable": 264}
	for name, bytes := range want {
		if kb := bytes / 1024; got[name] > kb+slack[name] || got[name]+slack[name] < kb {
			t.Errorf("%s: %d kB, want %d kB", name, got[name], kb)
		}
	}
	if got["Cached"] < 19000 {
		t.Errorf("Cached: %d kB after a file of 20 MB was written", got["Cached"])
	}
	host := meminfo(t, readFile(t, "/proc/meminfo"))
	for name := range host {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if got["Hugepagesize"] != host["Hugepagesize"] {
		t.Errorf("Hugepagesize: %d, the host's is %d", got["Hugepagesize"], host["Hugepagesize"])
	}
}

// oracle parses the container's /proc files with other people's code.
func oracle(t *testing.T, c *container) procfs.FS {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"stat", "meminfo", "uptime", "swaps"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(c.sh(t, "cat /proc/"+name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := procfs.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestPrometheusUnderstandsTheFiles(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	fs := oracle(t, c)
	mem, err := fs.Meminfo()
	if err != nil {
		t.Fatal(err)
	}
	if mem.MemTotal == nil || *mem.MemTotal != 256<<10 {
		t.Errorf("MemTotal %v", mem.MemTotal)
	}
	stat, err := fs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	host, err := procfs.NewFS("/proc")
	if err != nil {
		t.Fatal(err)
	}
	hostStat, err := host.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if len(stat.CPU) != 1 {
		t.Errorf("%d CPUs, want 1", len(stat.CPU))
	}
	for id := range stat.CPU {
		if _, ok := hostStat.CPU[id]; !ok {
			t.Errorf("CPU %d is none of the host's", id)
		}
	}
	// ps and psutil add it to start times, which count from the host's boot.
	if stat.BootTime != hostStat.BootTime {
		t.Errorf("btime %d, the host's is %d", stat.BootTime, hostStat.BootTime)
	}
	if stat.IRQTotal == 0 || stat.ContextSwitches == 0 || stat.ProcessCreated == 0 || stat.SoftIRQTotal == 0 {
		t.Errorf("lines of the host are missing: %+v", stat)
	}
}

func TestStatCountsTheCgroupsCPUTime(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	burn(t, c, 1)
	var used, usedAfter, age, ageAfter float64
	fs := func() procfs.FS {
		used, age = cpuUsage(t, c.init), boottime(t)-startOf(t, c.init)
		defer func() { usedAfter, ageAfter = cpuUsage(t, c.init), boottime(t)-startOf(t, c.init) }()
		return oracle(t, c)
	}()
	stat, err := fs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	busy := stat.CPUTotal.User + stat.CPUTotal.System + stat.CPUTotal.Nice
	// One tick for each counter. A row can also lag by what its time, which is
	// the container's age, cannot hold yet.
	if busy < used-0.1 || busy > usedAfter+0.03 {
		t.Errorf("busy %.2f s, the cgroup has used %.2f to %.2f s", busy, used, usedAfter)
	}
	if total := busy + stat.CPUTotal.Idle; total < age-0.1 || total > ageAfter+0.1 {
		t.Errorf("busy and idle are %.2f s, the container was %.2f to %.2f s old", total, age, ageAfter)
	}
	sum := procfs.CPUStat{}
	for _, row := range stat.CPU {
		sum.User += row.User
		sum.System += row.System
		sum.Idle += row.Idle
	}
	if math.Abs(sum.User+sum.System+sum.Idle-stat.CPUTotal.User-stat.CPUTotal.System-stat.CPUTotal.Idle) > 0.05 {
		t.Errorf("the rows make %+v, the cpu line says %+v", sum, stat.CPUTotal)
	}
}

func TestStatNeverGoesBack(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	dir, v2 := c.ownCgroup(t, "cpu")
	loop := strings.TrimSpace(c.sh(t, "(while :; do :; done) & echo $!"))
	last := make(map[string][]float64)
	for i := range 40 {
		// A quota that changes takes CPUs into the view and out of it.
		if i%10 == 0 {
			setQuota(t, dir, v2, 1+i/10%2)
		}
		for line := range strings.Lines(c.sh(t, "grep ^cpu /proc/stat")) {
			name, rest, _ := strings.Cut(line, " ")
			now := floats(t, rest)
			for j, before := range last[name] {
				if now[j] < before {
					t.Errorf("field %d of %s went from %.0f to %.0f", j+1, name, before, now[j])
				}
			}
			last[name] = now
		}
		sleep(20)
	}
	c.sh(t, "kill "+loop)
}

// burn lets the container use some seconds of CPU time.
func burn(t *testing.T, c *container, seconds float64) {
	t.Helper()
	until := cpuUsage(t, c.init) + seconds
	loop := c.sh(t, "(while :; do :; done) & echo $!")
	waitFor(t, "the container to burn CPU time", func() bool { return cpuUsage(t, c.init) >= until })
	c.sh(t, "kill "+strings.TrimSpace(loop))
}

// setQuota gives the cgroup in dir so many CPUs.
func setQuota(t *testing.T, dir string, v2 bool, cpus int) {
	t.Helper()
	file, quota := "cpu.cfs_quota_us", strconv.Itoa(cpus*100000)
	if v2 {
		file, quota = "cpu.max", quota+" 100000"
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(quota), 0); err != nil {
		t.Fatal(err)
	}
}

func TestLimitsShowAtTheNextReadOfAHeldFile(t *testing.T) {
	c := startCommand(t, []string{"--memory", "256M"}, toolCommand(t, "reread", "/proc/meminfo")...)
	dir, v2 := c.ownCgroup(t, "memory")
	file := "memory.limit_in_bytes"
	if v2 {
		file = "memory.max"
	}
	for _, mib := range []uint64{256, 128, 512, 64} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatUint(mib<<20, 10)), 0); err != nil {
			t.Fatal(err)
		}
		if got := meminfo(t, c.answer(t, "", "."))["MemTotal"]; got != mib<<10 {
			t.Errorf("MemTotal %d kB after the limit became %d MiB", got, mib)
		}
	}

	c = startCommand(t, []string{"--cpus", "2"}, toolCommand(t, "reread", "/proc/stat")...)
	dir, v2 = c.ownCgroup(t, "cpu")
	for _, cpus := range []int{1, 2, 1} {
		setQuota(t, dir, v2, cpus)
		rows := regexp.MustCompile(`(?m)^cpu\d+ `).FindAllString(c.answer(t, "", "."), -1)
		if want := min(cpus, hostCPUs(t)); len(rows) != want {
			t.Errorf("%d rows, want %d", len(rows), want)
		}
	}
}

// hostCPUs counts the CPUs that the tests themselves may run on.
func hostCPUs(t testing.TB) int {
	t.Helper()
	out, err := exec.Command("nproc").Output()
	if err != nil {
		t.Fatal(err)
	}
	return int(floats(t, string(out))[0])
}

// effectiveMemory is how much memory the cgroup of pid may use, in kB, told by
// the kernel itself where it can.
func effectiveMemory(t testing.TB, pid int) uint64 {
	t.Helper()
	limit := meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]
	dir, v2 := cgroupDir(t, pid, "memory")
	if !v2 {
		n := cgroupNumber(t, pid, "memory", "memory.stat hierarchical_memory_limit", "")
		return min(limit, n/1024)
	}
	for ; dir != cgroupMount(t, "cgroup2", ""); dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "memory.max"))
		if err != nil {
			continue // the controller is not enabled at this level
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			limit = min(limit, n/1024)
		}
	}
	return limit
}

func TestContainerWithoutLimitsSeesTheHostsSize(t *testing.T) {
	c := startContainer(t)
	if got, want := meminfo(t, c.sh(t, "cat /proc/meminfo"))["MemTotal"], effectiveMemory(t, c.init); got != want {
		t.Errorf("MemTotal %d kB, want %d kB", got, want)
	}
	if got, want := strings.Count(c.sh(t, "grep ^cpu[0-9] /proc/stat"), "\n"), hostCPUs(t); got != want {
		t.Errorf("%d CPUs, want %d", got, want)
	}
}
