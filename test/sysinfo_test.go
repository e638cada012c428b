// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// printSysinfo makes so many system calls, and prints what the last one returned beside what
// the files say, and how many nanoseconds a call took on average.
func printSysinfo(arg string) error {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return err
	}
	var s unix.Sysinfo_t
	begun := time.Now()
	for range n {
		if err := unix.Sysinfo(&s); err != nil {
			return err
		}
	}
	took := time.Since(begun)
	files := make(map[string]string)
	for _, name := range []string{"meminfo", "uptime", "loadavg"} {
		b, err := os.ReadFile("/proc/" + name)
		if err != nil {
			return err
		}
		files[name] = string(b)
	}
	kb := func(label string) (n uint64) {
		for line := range strings.Lines(files["meminfo"]) {
			if f := strings.Fields(line); f[0] == label+":" {
				n, err = strconv.ParseUint(f[1], 10, 64)
			}
		}
		return n << 10
	}
	fmt.Println("total", s.Totalram, kb("MemTotal"))
	fmt.Println("free", s.Freeram, kb("MemFree"))
	fmt.Println("shared", s.Sharedram, kb("Shmem"))
	fmt.Println("buffer", s.Bufferram, kb("Buffers"))
	fmt.Println("swap", s.Totalswap, kb("SwapTotal"))
	fmt.Println("uptime", s.Uptime, strings.Fields(files["uptime"])[0])
	fmt.Println("load", float64(s.Loads[0])/65536, strings.Fields(files["loadavg"])[0])
	_, threads, _ := strings.Cut(strings.Fields(files["loadavg"])[3], "/")
	fmt.Println("threads", s.Procs, threads)
	fmt.Println("cpus", runtime.NumCPU(), 0)
	fmt.Println("nanoseconds", took.Nanoseconds()/int64(n), 0)
	return err
}

// sysinfoIn runs printSysinfo in a container, and returns both columns.
func sysinfoIn(t *testing.T, flags []string, calls int) (call, file map[string]float64) {
	t.Helper()
	call, file = make(map[string]float64), make(map[string]float64)
	for line := range strings.Lines(inContainer(t, flags, toolCommand(t, "sysinfo", strconv.Itoa(calls))...)) {
		name, rest, _ := strings.Cut(line, " ")
		n := floats(t, rest)
		call[name], file[name] = n[0], n[1]
	}
	return call, file
}

// answeredContainer is small, with one CPU of those of the host, and its system calls are
// answered.
func answeredContainer() []string {
	return []string{"--memory", "300M", "--cpus", "0.9", "--syscalls"}
}

func TestSysinfoAgreesWithTheFiles(t *testing.T) {
	call, file := sysinfoIn(t, answeredContainer(), 3)
	for name, slack := range map[string]float64{
		"total": 0, "buffer": 0, "swap": 0, "threads": 5, "load": 0.01, "uptime": 2, "free": 20 << 20, "shared": 1 << 20,
	} {
		if math.Abs(call[name]-file[name]) > slack {
			t.Errorf("%s: %v from the system call, %v in the file", name, call[name], file[name])
		}
	}
	if call["total"] != 300<<20 || call["cpus"] != 1 || call["threads"] < 1 || call["uptime"] > 120 {
		t.Errorf("%v", call)
	}
}

func TestSysinfoIsTheHostsUnlessAskedFor(t *testing.T) {
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		t.Fatal(err)
	}
	call, _ := sysinfoIn(t, []string{"--memory", "300M", "--cpus", "0.9"}, 1)
	if call["total"] != float64(host.Totalram) || call["cpus"] != float64(runtime.NumCPU()) {
		t.Errorf("%v, on a host with %d bytes and %d CPUs", call, host.Totalram, runtime.NumCPU())
	}
}

// TestProgramsAskTheKernel has those that do not look into /proc, with and without answers.
func TestProgramsAskTheKernel(t *testing.T) {
	need(t, "busybox", "busybox-static")
	need(t, "python3", "python3-minimal")
	need(t, "taskset", "util-linux")
	if runtime.NumCPU() < 2 {
		t.Fatal("this needs two CPUs")
	}
	pages := strconv.Itoa((300 << 20) / os.Getpagesize())
	for _, tt := range []struct{ command, want string }{
		{"busybox free | awk '/^Mem/ {print $2, ($3 >= 0 && $3 <= $2 && $4 <= $2)}'", "307200 1"},
		{"busybox uptime | grep -c 'up 0 min'", "1"},
		{"busybox nproc", "1"},
		{"nproc", "1"},
		{"getconf _PHYS_PAGES", pages},
		{"getconf _NPROCESSORS_ONLN", "1"},
		{"test $(getconf _AVPHYS_PAGES) -le " + pages + " && echo less", "less"},
		{"python3 -c 'import os; print(len(os.sched_getaffinity(0)))'", "1"},
		// The file is rounded to two digits.
		{`python3 -c 'import os; print(abs(os.getloadavg()[0] - float(open("/proc/loadavg").read().split()[0])) < 0.02)'`, "True"},
		{"taskset -c -p $$ | grep -c 'list: [0-9]*$'", "1"},
	} {
		if got := strings.TrimSpace(inContainer(t, answeredContainer(), "sh", "-c", tt.command)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.command, got, tt.want)
		}
	}
}

// TestAffinityOfAProgramThatPinsItself: it saves its CPUs, pins itself to one of them, and
// goes back. It then has all of the container's, not only those that it was shown.
func TestAffinityOfAProgramThatPinsItself(t *testing.T) {
	need(t, "python3", "python3-minimal")
	if runtime.NumCPU() < 2 {
		t.Fatal("this needs two CPUs")
	}
	const script = `
import os
def allowed():
    for line in open("/proc/self/status"):
        if line.startswith("Cpus_allowed_list:"):
            return line.split()[1]
before = allowed()
saved = os.sched_getaffinity(0)
os.sched_setaffinity(0, saved)
print(before == allowed(), saved == os.sched_getaffinity(0), len(saved))
`
	if got := inContainer(t, answeredContainer(), "python3", "-c", script); got != "True True 1\n" {
		t.Errorf("%q", got)
	}
	// A CPU that it does not see: that is what it wants.
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	last := -1
	for cpu := range 1024 {
		if set.IsSet(cpu) {
			last = cpu
		}
	}
	pinned := fmt.Sprintf("import os; os.sched_setaffinity(0, {%d}); print(os.sched_getaffinity(0) == {%[1]d})", last)
	if got := inContainer(t, answeredContainer(), "python3", "-c", pinned); got != "True\n" {
		t.Errorf("pinned to CPU %d: %q", last, got)
	}
}

// TestContainerThatNeverStopsAsking waits between its calls.
func TestContainerThatNeverStopsAsking(t *testing.T) {
	const calls = 5000 // 2,000 at once, and as many each second
	begun := time.Now()
	call, _ := sysinfoIn(t, answeredContainer(), calls)
	if took := time.Since(begun); took < 1400*time.Millisecond {
		t.Errorf("%d calls in %s", calls, took)
	}
	if call["total"] != 300<<20 {
		t.Errorf("%v", call)
	}
}

// TestContainerInAContainerWithAnswers cannot have its own, and says so.
func TestContainerInAContainerWithAnswers(t *testing.T) {
	args := slices.Concat([]string{"run"}, answeredContainer(), []string{"--", "vprocfs", "run", "--syscalls", "--", "true"})
	out, stderr, status := vprocfs(t, args...)
	if status == 0 || !strings.Contains(stderr, "seccomp") || !strings.Contains(stderr, unix.EBUSY.Error()) {
		t.Errorf("exit status %d\n%s%s", status, out, stderr)
	}
	out = inContainer(t, answeredContainer(), "vprocfs", "run", "--memory", "100M", "--", "getconf", "_PHYS_PAGES")
	if want := fmt.Sprintln((100 << 20) / os.Getpagesize()); out != want {
		t.Errorf("%q pages inside, want %q", out, want)
	}
}
