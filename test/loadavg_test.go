// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loadavg is what a /proc/loadavg says.
type loadavg struct {
	one, five, fifteen     float64
	running, total, newest int
}

func parseLoadavg(t testing.TB, text string) (l loadavg) {
	t.Helper()
	n, err := fmt.Sscanf(text, "%f %f %f %d/%d %d\n", &l.one, &l.five, &l.fifteen, &l.running, &l.total, &l.newest)
	if err != nil || n != 6 {
		t.Fatalf("loadavg %q: %v", text, err)
	}
	return l
}

// loadavg reads the container's, with nothing but its shell.
func (c *container) loadavg(t testing.TB) loadavg {
	t.Helper()
	return parseLoadavg(t, c.sh(t, "read line < /proc/loadavg; echo $line"))
}

// samplePatience is for a few samples, 5 s each, and slow machines.
const samplePatience = 90 * time.Second

// waitForLoad reads the container's loadavg until it is as wanted.
func waitForLoad(t testing.TB, c *container, what string, ok func(loadavg) bool) loadavg {
	t.Helper()
	for end := time.Now().Add(samplePatience); ; sleep(500) {
		l := c.loadavg(t)
		if ok(l) {
			return l
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s: %+v", samplePatience, what, l)
		}
	}
}

// threadsOf counts the threads of all processes that have a pid in the container's
// pid namespace, by state. It has no code of vprocfs, so that it can judge it.
func (c *container) threadsOf(t testing.TB) map[string]int {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.init))
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[string]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/task/*/stat") // the pattern is well formed
	for _, stat := range stats {
		if of, err := os.Readlink(filepath.Join(filepath.Dir(stat), "ns/pid")); err != nil || of != ns {
			continue
		}
		if f := statFields(stat); len(f) > 3 {
			states[f[3]]++
			states["all"]++
		}
	}
	return states
}

// block is in uninterruptible sleep for ever, as the parent in vfork(2) is until its
// child runs another program.
func block() error {
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VFORK|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	for e == 0 && pid == 0 {
		_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	return fmt.Errorf("vfork: %w", e)
}

// idleThreads sleeps with n threads.
func idleThreads(n int) error {
	for range n {
		go func() {
			runtime.LockOSThread()
			for {
				_, _, _ = unix.Syscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
			}
		}()
	}
	select {}
}

const busyLoop = "while :; do :; done"

// TestLoadavgFollowsBusyThreads checks the first steps of the average, wherever
// below the container the threads are: how it goes on is arithmetic.
func TestLoadavgFollowsBusyThreads(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	c.sh(t, "("+busyLoop+") & ("+busyLoop+") & ("+busyLoop+") & deep=$!")
	dir, _ := c.ownCgroup(t, "cpuacct")
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The shell's number for it is not ours: the one that started last.
	var busy int
	for _, shell := range children(c.init) {
		for _, pid := range children(shell) {
			busy = max(busy, pid)
		}
	}
	write(t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(busy))
	t.Cleanup(func() {
		if err := unix.Kill(busy, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		for range 5 {
			removeGroup(t, dir)
			dir = filepath.Dir(dir)
		}
	})
	l := waitForLoad(t, c, "three busy threads", func(l loadavg) bool { return l.one > 0.6 })
	if l.running < 3 || l.running > 4 {
		t.Errorf("%+v", l)
	}
	// Of a steady load n the averages are n(1-e^(-t/1min)) and so on: that of one
	// minute tells how long it has been going. What is rounded up counts too.
	n := 3.0
	age := -math.Log(1 - l.one/n)
	for _, x := range []struct{ got, minutes float64 }{{l.five, 5}, {l.fifteen, 15}} {
		want := n * (1 - math.Exp(-age/x.minutes))
		if x.got < want*0.7-0.02 || x.got > want*1.3+0.05 {
			t.Errorf("%+v: over %v minutes %.2f, want about %.2f", l, x.minutes, x.got, want)
		}
	}
}

// TestLoadavgCountsBlockedThreads guards killable sleep, which D is mostly: vfork's
// parent, NFS.
func TestLoadavgCountsBlockedThreads(t *testing.T) {
	const blocked = 4
	c := startContainer(t, smallContainer()...)
	for range blocked {
		c.sh(t, strings.Join(toolCommand(t, "block"), " ")+" &")
	}
	waitFor(t, "threads to be blocked", func() bool { return c.threadsOf(t)["D"] >= blocked })
	l := waitForLoad(t, c, "four blocked threads", func(l loadavg) bool { return l.one > 0.6 })
	if l.one > blocked+1 {
		t.Errorf("%+v", l)
	}
	stat := c.sh(t, "cat /proc/stat")
	if got := match(t, stat, `(?m)^procs_blocked (\d+)$`)[0]; got != blocked {
		t.Errorf("procs_blocked %v, want %d", got, blocked)
	}
	if got := match(t, stat, `(?m)^procs_running (\d+)$`)[0]; got < 1 || got > 4 {
		t.Errorf("procs_running %v", got)
	}
}

// TestLoadavgCountsThreads is about threads, not processes, and more of them than
// the kernel lists at once.
func TestLoadavgCountsThreads(t *testing.T) {
	const threads = 1500
	c := startContainer(t, smallContainer()...)
	c.sh(t, strings.Join(toolCommand(t, "threads", strconv.Itoa(threads)), " ")+" &")
	waitFor(t, "the threads", func() bool { return c.threadsOf(t)["all"] > threads })
	l := waitForLoad(t, c, "as many threads as there are", func(l loadavg) bool { return l.total == c.threadsOf(t)["all"] })
	if l.total < threads || l.running > 5 {
		t.Errorf("%+v", l)
	}
}

// TestLoadavgNamesTheNewestThread by the number that the container knows.
func TestLoadavgNamesTheNewestThread(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	newest, err := strconv.Atoi(strings.TrimSpace(c.sh(t, "sleep 1000 & echo $!")))
	if err != nil {
		t.Fatal(err)
	}
	if l := c.loadavg(t); l.newest != newest { // the first read takes a sample
		t.Errorf("%+v, want %d as the last", l, newest)
	}
	if newest, err = strconv.Atoi(strings.TrimSpace(c.sh(t, "sleep 1000 & echo $!"))); err != nil {
		t.Fatal(err)
	}
	waitForLoad(t, c, "the newest", func(l loadavg) bool { return l.newest == newest })
	c.sh(t, "kill $!; wait $!")
	sleep(6000)
	if l := c.loadavg(t); l.newest != newest {
		t.Errorf("%+v after %d ended: the last number given out is the same", l, newest)
	}
}

func TestLoadavgOfTheHostWhereWished(t *testing.T) {
	dir, _ := serve(t, "--loadavg", "host")
	c := startContainer(t, append(smallContainer(), "--mount", dir)...)
	waitFor(t, "the host's averages", func() bool {
		host := readFile(t, "/proc/loadavg")
		return strings.Join(strings.Fields(c.sh(t, "cat /proc/loadavg"))[:3], " ") == strings.Join(strings.Fields(host)[:3], " ")
	})
	host := parseLoadavg(t, readFile(t, "/proc/loadavg"))
	if l := c.loadavg(t); l.newest < host.newest {
		t.Errorf("last pid %d, the host's was %d", l.newest, host.newest)
	}
	if _, stderr, status := vprocfs(t, "run", "--loadavg", "off", "true"); status != 2 || !strings.Contains(stderr, "must be on or host") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// TestProgramsShowTheContainersLoad beside the busy host's.
func TestProgramsShowTheContainersLoad(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	for _, program := range []string{"uptime", "LC_ALL=C TERM=dumb top -b -n1 | head -1", "LC_ALL=C w | head -1"} {
		waitFor(t, program+" to show /proc/loadavg", func() bool {
			want := strings.Fields(c.sh(t, "cat /proc/loadavg"))
			return strings.Contains(c.sh(t, program), "load average: "+strings.Join(want[:3], ", "))
		})
	}
}
