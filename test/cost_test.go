// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// systemCalls counts the system calls of process pid, with all its threads,
// while work runs.
func systemCalls(t testing.TB, pid int, work func()) map[string]int {
	t.Helper()
	out := filepath.Join(t.TempDir(), "strace")
	cmd := exec.Command("strace", "-f", "-c", "-U", "calls,name", "-o", out, "-p", strconv.Itoa(pid))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	line, err := said.ReadString('\n')
	if err != nil || !strings.Contains(line, "attached") {
		t.Fatalf("strace: %v: %s", err, line)
	}
	work()
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := said.ReadString(0)
	_ = cmd.Wait() // says that it was interrupted
	calls := make(map[string]int)
	for _, m := range regexp.MustCompile(`(?m)^ *(\d+) +(\w+)$`).FindAllStringSubmatch(readFile(t, out), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if m[2] != "total" {
			calls[m[2]] = n
		}
	}
	if len(calls) == 0 {
		t.Fatalf("strace has counted nothing: %s", rest)
	}
	return calls
}

// scheduling tells whether a system call is of Go's scheduler and not of the work
// it schedules. They are not counted: strace itself makes nearly all of them, for
// a thread that it stops looks stuck to the scheduler, which then polls and
// preempts (6 nanosleep for each cat).
func scheduling(name string) bool {
	switch name {
	case "nanosleep", "futex", "epoll_pwait", "sched_yield", "tgkill", "getpid", "rt_sigreturn", "restart_syscall":
		return true
	}
	return false
}

// maxSystemCalls is what a warm cat of a file may cost the daemon. LXCFS needs
// 42, 179, 69, 80, 163, 51 and 152. Two of each are for the length that fstat(2) asks for;
// uptime reads what stat does for its idle time. One is for the policy.
func maxSystemCalls() map[string]float64 {
	return map[string]float64{
		"uptime": 21, "meminfo": 27, "stat": 27,
		"cpuinfo": 27, "swaps": 27, "diskstats": 27, "slabinfo": 17, "loadavg": 17,
		"cgroups": 21, "vmstat": 41,
	}
}

func TestAWarmCatCostsTheDaemonFewSystemCalls(t *testing.T) {
	dir, pid := serve(t)
	c := startContainer(t, "--mount", dir, "--memory", "256M", "--cpus", "1")
	for name, most := range maxSystemCalls() {
		cat := "cat /proc/" + name + " >/dev/null; "
		c.sh(t, strings.Repeat(cat, 5))
		// A read that a signal of Go's scheduler interrupts is made again, on a
		// busy machine more than now and then. The best round had least of it.
		const rounds, cats = 10, 10
		best := math.Inf(1)
		for range rounds {
			calls := systemCalls(t, pid, func() { c.sh(t, strings.Repeat(cat, cats)) })
			sum := 0
			for call, n := range calls {
				if !scheduling(call) {
					sum += n
				}
			}
			each := float64(sum) / cats
			t.Logf("%s: %.2f system calls a cat: %v in %d", name, each, calls, cats)
			best = min(best, each)
		}
		// One read more in a round, that of the reader when strace attaches.
		if best > most+1.0/cats {
			t.Errorf("%s: %.2f system calls a cat, want at most %.0f", name, best, most)
		}
	}
}

// wakeups counts how often the threads of pid went to sleep, and so were woken.
func wakeups(t testing.TB, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %v", pid, err)
	}
	for _, file := range files {
		n += int(statusNumber(t, file, "voluntary_ctxt_switches"))
	}
	return n
}

// statusNumber reads a number from a /proc/PID/status.
func statusNumber(t testing.TB, file, key string) uint64 {
	t.Helper()
	for line := range strings.Lines(readFile(t, file)) {
		if f := strings.Fields(line); f[0] == key+":" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no %s", file, key)
	return 0
}

func TestAnIdleDaemonSleepsAndIsSmall(t *testing.T) {
	dir, pid := serve(t)
	for range 3 {
		c := startContainer(t, "--mount", dir, "--memory", "256M")
		c.sh(t, strings.Repeat("cat /proc/uptime /proc/meminfo /proc/stat > /dev/null; ", 20))
	}
	// Its load is not followed any longer than it lives.
	inContainer(t, []string{"--mount", dir}, "cat", "/proc/loadavg")
	// Go's runtime tidies up for some seconds after work; what keeps waking
	// the daemon would do it in every window.
	const window = 20
	var woken int
	for range 3 {
		sleep(5000)
		before := wakeups(t, pid)
		sleep(window * 1000)
		if woken = wakeups(t, pid) - before; woken == 0 {
			break
		}
		t.Logf("%d wake-ups in %d s", woken, window)
	}
	if woken != 0 {
		t.Errorf("an idle daemon was woken %d times in %d s", woken, window)
	}
	status := fmt.Sprintf("/proc/%d/status", pid)
	rss := statusNumber(t, status, "VmRSS")
	t.Logf("RSS %d kB, of that anonymous %d kB", rss, statusNumber(t, status, "RssAnon"))
	if rss > 16<<10 {
		t.Errorf("RSS %d kB, want at most 16 MiB", rss)
	}
}

func TestTheDaemonLeavesNoDescriptorBehind(t *testing.T) {
	dir, pid := serve(t, "--cache-ttl", "1s")
	open := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	use := func() {
		inContainer(t, []string{"--mount", dir, "--memory", "64M"}, "cat", "/proc/uptime", "/proc/meminfo", "/proc/stat")
	}
	// What is opened once and for all is open by then, and what was the first
	// containers' is closed.
	for range 3 {
		use()
	}
	before := open()
	for settled := 0; settled < 20; settled++ {
		sleep(100)
		if now := open(); now != before {
			before, settled = now, 0
		}
	}
	for range 10 {
		use()
	}
	waitFor(t, "ten containers to be forgotten", func() bool { return open() <= before })
}

// TestTheDaemonHasNoFileOfItsOwnMountOpen guards against a deadlock: a process that
// starts others closes its files for them, which for a file of a FUSE mount can wait for
// an answer (FLUSH), with a lock held that the reads of /proc/PID of half the machine
// wait for. Only pins are open, in the worker alone and each once; the kernel sends no
// FLUSH for them (FOPEN_NOFLUSH; before Linux 5.16, once one FLUSH was refused).
func TestTheDaemonHasNoFileOfItsOwnMountOpen(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	checkUptime(t, dir)
	var served unix.Stat_t
	if err := unix.Lstat(dir, &served); err != nil {
		t.Fatal(err)
	}
	open := func(pid int) map[string]int {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(fds) < 3 {
			t.Fatalf("%q, %v", fds, err)
		}
		paths := make(map[string]int)
		for _, fd := range fds {
			var st unix.Stat_t
			// An error: it has been closed since.
			if err := unix.Stat(fd, &st); err == nil && st.Dev == served.Dev {
				path, _ := os.Readlink(fd)
				paths[path]++
			}
		}
		return paths
	}
	if paths := open(d.cmd.Process.Pid); len(paths) > 0 {
		t.Errorf("the holder has %v open", paths)
	}
	// What is pinned: the files of the table, and the root that they were opened below.
	pins := map[string]bool{"/": true, "/proc/pressure/cpu": true, "/proc/pressure/memory": true, "/proc/pressure/io": true, "/proc/pressure/irq": true}
	for _, name := range servedFiles(t, dir) {
		pins["/proc/"+name] = true
	}
	for _, name := range []string{"online", "possible", "has_cpu", "has_memory", "has_normal_memory"} {
		pins["/sys/devices/system/node/"+name] = true
	}
	for _, name := range []string{"online", "possible", "present", "offline"} {
		pins["/sys/devices/system/cpu/"+name] = true
	}
	paths := open(d.worker(t))
	if len(paths) == 0 {
		t.Error("the worker has no pins")
	}
	for path, n := range paths {
		if !pins[path] || n != 1 {
			t.Errorf("the worker has %s open %d times", path, n)
		}
	}
	d.stop(t)
}
