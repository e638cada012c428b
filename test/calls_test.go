// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// surviveCalls is a tool: it makes both system calls until its input ends, and compares them
// with the files. For each line it prints how many it has made, and at the end also how long the
// longest took, in microseconds. The first thing that is wrong ends it.
func surviveCalls(memTotal string) error {
	total, err := strconv.ParseUint(memTotal, 10, 64)
	if err != nil {
		return err
	}
	var calls, longest atomic.Int64
	stop := make(chan struct{})
	failed := make(chan error, 8)
	var wg sync.WaitGroup
	for i := range 4 {
		check := func() error { return checkSysinfo(total << 10) }
		if i%2 == 1 {
			check = checkAffinity
		}
		wg.Go(func() {
			runtime.LockOSThread()
			for {
				select {
				case <-stop:
					return
				default:
				}
				begun := time.Now()
				if err := check(); err != nil {
					failed <- err
					return
				}
				took := time.Since(begun).Microseconds()
				for l := longest.Load(); took > l && !longest.CompareAndSwap(l, took); l = longest.Load() {
				}
				calls.Add(1)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1)
		for {
			if n, _ := os.Stdin.Read(buf); n == 0 {
				return
			}
			fmt.Println(calls.Load())
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ended:
	}
	close(stop)
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Println(calls.Load(), longest.Load())
	return nil
}

func checkSysinfo(total uint64) error {
	var s unix.Sysinfo_t
	err := unix.Sysinfo(&s)
	for err == unix.EINTR { // before Linux 5.19
		err = unix.Sysinfo(&s)
	}
	if err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	if s.Totalram != total || s.Freeram > total || s.Procs == 0 || s.Procs > 100 {
		return fmt.Errorf("sysinfo: %+v, want %d bytes", s, total)
	}
	return nil
}

func checkAffinity() error {
	var set unix.CPUSet
	err := unix.SchedGetaffinity(0, &set)
	for err == unix.EINTR {
		err = unix.SchedGetaffinity(0, &set)
	}
	if err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	n := 0
	for _, word := range set {
		n += bits.OnesCount64(uint64(word))
	}
	if n != 1 {
		return fmt.Errorf("sched_getaffinity: %d CPUs, want 1", n)
	}
	return nil
}

// callersIn starts a container whose processes make system calls, and returns a function that
// tells how many they have made.
func callersIn(t *testing.T, mount string) (c *container, progress func() int) {
	t.Helper()
	const memory = 64
	flags := []string{"--mount", mount, "--syscalls", "--memory", fmt.Sprint(memory, "M"), "--cpus", "0.9"}
	c = startCommand(t, flags, toolCommand(t, "survive-calls", strconv.Itoa(memory<<10))...)
	return c, func() int {
		t.Helper()
		fmt.Fprint(c.in, "\n")
		line, err := c.out.ReadString('\n')
		n, convErr := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || convErr != nil {
			t.Fatalf("the callers have ended: %v %q", err, line)
		}
		return n
	}
}

// callStatus is what status says of system calls.
type callStatus struct {
	Daemon struct {
		Syscalls *struct {
			Socket          string
			Listeners, Late int
		}
	}
	Worker struct{ Syscalls map[string]uint64 }
}

func callStatusOf(t *testing.T, mount string) (s callStatus) {
	t.Helper()
	out, stderr, _ := vprocfs(t, "status", "--json", "--mount", mount)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	return s
}

// childrenNamed returns the children of a process that were started with the argument.
func childrenNamed(t *testing.T, pid int, argument string) (found []int) {
	t.Helper()
	for _, child := range children(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
		if err == nil && strings.Contains(string(text), "\x00"+argument+"\x00") {
			found = append(found, child)
		}
	}
	return found
}

// TestNoCallerNoticesThatWorkersDie is the proof of survival for system calls: callers of
// both beside readers of files, while workers and what writes their answers are killed, and
// the binary is upgraded.
func TestNoCallerNoticesThatWorkersDie(t *testing.T) {
	kills, upgrades := survivalCounts(t)
	path, dir := program(t), t.TempDir()
	d := startServing(t, exec.Command(path, "serve", "--syscalls", "--max-outage", "3m", dir), dir)
	var containers []*container
	var progress []func() int
	for range 2 {
		c, p := callersIn(t, dir)
		containers, progress = append(containers, c), append(progress, p)
	}
	reader, readsOf := survivorIn(t, dir)
	made := func() (n int) {
		for _, p := range progress {
			n += p()
		}
		return n
	}
	waitFor(t, "calls", func() bool { return made() > 100 })
	for i := range kills + upgrades {
		before, worker := made(), d.worker(t)
		switch {
		case i%(kills/max(upgrades, 1)+1) == 0 && upgrades > 0:
			upgrades--
			if _, stderr, status := vprocfs(t, "upgrade", dir); status != 0 {
				t.Fatalf("upgrade: exit status %d: %s", status, stderr)
			}
		case i%4 == 1:
			for _, pid := range childrenNamed(t, worker, "write-answers") {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			}
			fallthrough
		default:
			if err := unix.Kill(worker, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "another worker", func() bool { return d.worker(t) != worker })
		waitFor(t, "calls", func() bool { return made() > before+20 })
	}
	wantReads(t, readsOf)
	for _, c := range containers {
		c.in.Close()
		out, err := c.out.ReadString('\n')
		var n, longest int
		if _, scanErr := fmt.Sscan(out, &n, &longest); err != nil || scanErr != nil {
			t.Fatalf("the callers: %v %v %q", err, scanErr, out)
		}
		t.Logf("%d calls, the longest took %v", n, time.Duration(longest)*time.Microsecond)
	}
	endSurvivor(t, reader)
	waitFor(t, "no listeners", func() bool { s := callStatusOf(t, dir); return s.Daemon.Syscalls.Listeners == 0 })
	d.stop(t)
}

// TestSyscallsOfADaemonAgreeWithItsFiles, and status tells of them.
func TestSyscallsOfADaemonAgreeWithItsFiles(t *testing.T) {
	dir, _ := serve(t, "--syscalls")
	call, file := sysinfoIn(t, []string{"--mount", dir, "--syscalls", "--memory", "300M", "--cpus", "0.9"}, 10)
	if call["total"] != 300<<20 || call["total"] != file["total"] || call["cpus"] != 1 {
		t.Errorf("%v, files %v", call, file)
	}
	s := callStatusOf(t, dir)
	want := "/run/vprocfs/" + strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-") + ".seccomp.sock"
	if s.Daemon.Syscalls == nil || filepath.Clean(s.Daemon.Syscalls.Socket) != want || s.Worker.Syscalls["sysinfo/answered"] < 10 {
		t.Errorf("%+v, want %s", s, want)
	}
	if st, err := os.Stat(want); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v %v", st, err)
	}
	if _, stderr, status := vprocfs(t, "run", "--mount", dir, "--syscalls", "--", "true"); status != 0 || stderr != "" {
		t.Errorf("exit status %d: %s", status, stderr)
	}
	plain, _ := serve(t)
	if _, stderr, status := vprocfs(t, "run", "--mount", plain, "--syscalls", "--", "true"); status == 0 || !strings.Contains(stderr, "--syscalls") {
		t.Errorf("a daemon without: exit status %d: %s", status, stderr)
	}
	if s := callStatusOf(t, plain); s.Daemon.Syscalls != nil {
		t.Errorf("a daemon without: %+v", s)
	}
}

// TestTheSocketOfSyscallsGoesWithTheDaemon: no runtime is told to connect to it.
func TestTheSocketOfSyscallsGoesWithTheDaemon(t *testing.T) {
	dir := t.TempDir()
	d := startServing(t, exec.Command("vprocfs", "serve", "--syscalls", dir), dir)
	socket := callStatusOf(t, dir).Daemon.Syscalls.Socket
	d.stop(t)
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestAFloodOfCallsIsThrottledByContainer: one that makes calls without end gets 2,000 a second,
// and others are answered beside it.
func TestAFloodOfCallsIsThrottledByContainer(t *testing.T) {
	const perSecond, burst = 2000, 2000
	dir, _ := serve(t, "--syscalls")
	c, made := callersIn(t, dir)
	waitFor(t, "calls", func() bool { return made() > 0 })
	begun, before := time.Now(), made()
	call, _ := sysinfoIn(t, []string{"--mount", dir, "--syscalls", "--memory", "300M", "--cpus", "0.9"}, 100)
	time.Sleep(3 * time.Second)
	n := made() - before
	took := time.Since(begun)
	t.Logf("%d calls in %v; another container's took %v on average", n, took, time.Duration(call["nanoseconds"]))
	if most := int(perSecond*took.Seconds()) + burst; n > most {
		t.Errorf("%d calls in %v, want at most %d", n, took, most)
	}
	if call["total"] != 300<<20 {
		t.Errorf("another container: %v", call)
	}
	c.in.Close()
	if _, err := c.out.ReadString('\n'); err != nil {
		t.Error(err)
	}
}
