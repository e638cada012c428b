// SPDX-License-Identifier: Apache-2.0

package test

import (
	"math"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// need fails the test where a program is missing, and says in which of Debian's
// packages it is. What is tested must not depend on what happens to be there.
func need(t testing.TB, program, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is missing: install Debian's package %s", program, debianPackage)
	}
}

// filledContainer is a container of 256 MiB and one CPU that has used some memory
// of two kinds and some CPU time.
func filledContainer(t *testing.T) *container {
	t.Helper()
	c := startContainer(t, smallContainer()...)
	file := t.TempDir() + "/file"
	c.sh(t, "x=$(head -c 5000000 /dev/zero | tr '\\0' x); head -c 70000000 /dev/zero > "+file)
	burn(t, c, 1)
	return c
}

// slack is what a program's own memory and the kernel's batched counters may
// differ by, in bytes.
const slack = 12 << 20

// alone runs a command in the container that gets none of the shell's input.
func alone(t *testing.T, c *container, command string) string {
	t.Helper()
	return c.sh(t, "{ "+command+"; } </dev/null")
}

// about fails unless got is what is wanted, give or take slack.
func about(t *testing.T, what string, got, want, slack float64) {
	t.Helper()
	if math.Abs(got-want) > slack {
		t.Errorf("%s: %.2f, want %.2f give or take %.2f", what, got, want, slack)
	}
}

// memoryUsage is the memory that the container's cgroup uses, and its page cache,
// in bytes.
func memoryUsage(t *testing.T, c *container) (usage, file float64) {
	t.Helper()
	_, stat := memoryStat(t, c.init)
	return float64(cgroupNumber(t, c.init, "memory", "memory.usage_in_bytes", "memory.current")), float64(stat["file"])
}

func TestProgramsShowTheCgroupsMemory(t *testing.T) {
	need(t, "free", "procps")
	need(t, "vmstat", "procps")
	need(t, "top", "procps")
	need(t, "python3", "python3-minimal")
	c := filledContainer(t)
	usage, file := memoryUsage(t, c)
	if usage < 70e6 || file < 60e6 {
		t.Fatalf("the container uses %.0f bytes, %.0f of them page cache: too little to tell", usage, file)
	}
	const total = 256 << 20
	for _, tt := range []struct {
		command, pattern string // of total, free, buffers and cache
		unit             float64
	}{
		{"free -b", `(?m)^Mem: +(\d+) +\d+ +(\d+) +\d+ +(\d+)`, 1},
		{"free -k", `(?m)^Mem: +(\d+) +\d+ +(\d+) +\d+ +(\d+)`, 1 << 10},
		{"vmstat -s", `(?s)(\d+) K total memory.* (\d+) K free memory.* (\d+) K swap cache`, 1 << 10},
		{"LC_ALL=C TERM=dumb top -b -n1", `MiB Mem : +([\d.]+) total, +([\d.]+) free, +[\d.]+ used, +([\d.]+) buff/cache`, 1 << 20},
		{"python3 -c '" + likePsutil + "' memory", `^(\d+) (\d+) (\d+)\n$`, 1},
	} {
		out := alone(t, c, tt.command)
		v := match(t, out, tt.pattern)
		if v[0]*tt.unit != total {
			t.Errorf("%s: total %.0f, want %d", tt.command, v[0]*tt.unit, total)
		}
		about(t, tt.command+": free", v[1]*tt.unit, total-usage, slack)
		about(t, tt.command+": cache", v[2]*tt.unit, file, slack)
	}
}

// likePsutil reads what psutil reads, as it does (psutil 7, _pslinux.py):
// memory; the age of pid 1 by btime and its start time; CPU times in seconds.
const likePsutil = `
import os, sys, time
mem = {l.split(":")[0]: int(l.split()[1]) * 1024 for l in open("/proc/meminfo")}
stat = {l.split()[0]: l.split()[1:] for l in open("/proc/stat")}
hz = os.sysconf("SC_CLK_TCK")
if sys.argv[1] == "memory":
	print(mem["MemTotal"], mem["MemFree"], mem["Cached"] + mem["Buffers"] + mem.get("SReclaimable", 0))
elif sys.argv[1] == "age":
	fields = open("/proc/1/stat").read().rpartition(")")[2].split()
	print(time.time() - (int(fields[19]) / hz + int(stat["btime"][0])))
elif sys.argv[1] == "times":
	print(*(int(n) / hz for n in stat["cpu"][:4]))
`

func TestProgramsShowTheCgroupsCPUTime(t *testing.T) {
	need(t, "vmstat", "procps")
	need(t, "mpstat", "sysstat")
	need(t, "iostat", "sysstat")
	need(t, "python3", "python3-minimal")
	c := filledContainer(t)
	age := func() float64 { return boottime(t) - startOf(t, c.init) }

	for _, tt := range []struct {
		command, pattern string // of user, nice, system, idle
		unit             float64
	}{
		{"vmstat -s", `(?s)(\d+) non-nice user cpu ticks.* (\d+) nice user cpu ticks.* (\d+) system cpu ticks.* (\d+) idle cpu ticks`, 1.0 / ticks},
		{"python3 -c '" + likePsutil + "' times", `^([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)\n$`, 1},
	} {
		before, younger := cpuUsage(t, c.init), age()
		v := match(t, alone(t, c, tt.command), tt.pattern)
		after, older := cpuUsage(t, c.init), age()
		busy := (v[0] + v[1] + v[2]) * tt.unit
		whole := busy + v[3]*tt.unit
		// What was used in the container's first moments, with all CPUs, can
		// be shown later, when the one CPU's time has room for it.
		if busy < before-0.15 || busy > after+0.03 {
			t.Errorf("%.10s: busy for %.2f s, the cgroup used %.2f to %.2f s", tt.command, busy, before, after)
		}
		if whole < younger-0.04 || whole > older+0.02 {
			t.Errorf("%.10s: a whole of %.2f s, the container is %.2f to %.2f s old", tt.command, whole, younger, older)
		}
	}

	// Shares of the time since the container's start, and of a second in which
	// a loop is busy. The container has one CPU.
	share := 100 * (1 - cpuUsage(t, c.init)/age())
	idle := match(t, alone(t, c, "LC_ALL=C iostat -c"), `(?m)^ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+)$`)[0]
	about(t, "iostat -c: idle since the start", idle, share, 10)

	loop := strings.TrimSpace(c.sh(t, "(while :; do :; done) & echo $!"))
	for command, pattern := range map[string]string{
		"LC_ALL=C mpstat -P ALL 3 1": `(?m)^Average: +0 .* ([\d.]+)$`,
		"LC_ALL=C mpstat 3 1":        `(?m)^Average: +all .* ([\d.]+)$`,
		"LC_ALL=C iostat -c 3 2":     `(?s)avg-cpu.*avg-cpu[^\n]*\n.* ([\d.]+)\n`,
		"LC_ALL=C vmstat 3 2":        `(?m)^(?: *\d+){14} +(\d+) +\d+ +\d+(?: +\d+)?\n$`,
		"LC_ALL=C TERM=dumb top -b -n2 -d3 -1 | grep ^%Cpu | tail -1": `^%Cpu0 .* ([\d.]+) id,`,
	} {
		before, began := cpuUsage(t, c.init), time.Now()
		out := alone(t, c, command)
		// The program has its start and its end in the time, too, when only
		// the loop runs: it shows at least as idle as that.
		used := cpuUsage(t, c.init) - before
		idle := match(t, out, pattern)[0]
		about(t, command+": idle beside a busy loop", idle, 100*(1-used/time.Since(began).Seconds()), 15)
	}
	c.sh(t, "kill "+loop)
}

func TestProgramsShowTheContainersAge(t *testing.T) {
	need(t, "w", "procps")
	need(t, "uptime", "procps")
	need(t, "ps", "procps")
	need(t, "python3", "python3-minimal")
	c := startContainer(t, smallContainer()...)
	sleep(2500)
	age := func() float64 { return boottime(t) - startOf(t, c.init) }
	for _, command := range []string{"w", "uptime"} {
		if out := alone(t, c, "LC_ALL=C "+command); !strings.Contains(out, " up 0 min, ") {
			t.Errorf("%s of a container that is seconds old: %s", command, out)
		}
	}
	seconds := func(text, layout string) float64 {
		at, err := time.ParseInLocation(layout, strings.TrimSpace(text), time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(at).Seconds()
	}
	// Whole seconds, and both ends are cut.
	about(t, "uptime -s", seconds(c.sh(t, "uptime -s"), time.DateTime), age(), 2.1)
	// Start times count from the host's boot, as btime does.
	about(t, "ps -o lstart", seconds(c.sh(t, "LC_ALL=C ps -o lstart= -p 1"), time.ANSIC), age(), 2.1)
	about(t, "psutil", match(t, alone(t, c, "python3 -c '"+likePsutil+"' age"), `^([\d.]+)\n$`)[0], age(), 1.6)

	var pids []string
	for line := range strings.Lines(c.sh(t, "ps -e -o comm=")) {
		pids = append(pids, strings.TrimSpace(line))
	}
	if got := strings.Join(pids, " "); got != "vprocfs sh ps" {
		t.Errorf("ps -e shows %s", got)
	}
}

func TestProgramsShowTheContainersCPUs(t *testing.T) {
	need(t, "nproc", "coreutils")
	need(t, "mpstat", "sysstat")
	need(t, "top", "procps")
	cpus := testCPUs(t)
	last := strconv.Itoa(cpus[len(cpus)-1])
	c := startContainer(t, "--cpuset", last)
	if got := c.sh(t, "nproc"); got != "1\n" {
		t.Errorf("nproc with one CPU: %s", got)
	}
	for command, pattern := range map[string]string{
		"LC_ALL=C mpstat -P ALL 1 1":       `(?m)^Average: +(\d+) `,
		"LC_ALL=C TERM=dumb top -b -n1 -1": `(?m)^%Cpu(\d+) `,
	} {
		out := alone(t, c, command)
		var rows []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(out, -1) {
			rows = append(rows, m[1])
		}
		if got := strings.Join(rows, " "); got != last {
			t.Errorf("%s: CPUs %s, want %s:\n%s", command, got, last, out)
		}
	}
}

func TestHtopShowsTheContainer(t *testing.T) {
	need(t, "htop", "htop")
	s := onTerminal(t, "vprocfs", "run", "--memory", "256M", "--cpus", "1", "--", "env", "TERM=linux", "LC_ALL=C", "htop", "--no-color", "-d", "5")
	s.expect(t, "/256M")
	s.expect(t, "Uptime: ")
	s.expect(t, "00:00:") // in its first second it says that it does not know
	s.send(t, "q")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v; the terminal has %q", err, s.rest())
	}
}
