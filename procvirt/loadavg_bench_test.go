// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/loadavg"
)

// sleepers makes groups of threads that sleep, below the v1 hierarchy of cpuacct:
// v2 has no groups of single threads without further ado.
func sleepers(b *testing.B, groups, threads int) []cgroup.Place {
	b.Helper()
	const top = "/sys/fs/cgroup/cpuacct"
	if !exists(top + "/cpuacct.usage") {
		b.Skipf("%s is not there: this needs a host with cgroup v1", top)
	}
	debug.SetMaxThreads(2*groups*threads + 1000)
	var places []cgroup.Place
	wake, gone := make(chan int), make(chan struct{})
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	for g := range groups {
		dir := filepath.Join(top, fmt.Sprintf("vprocfs-bench-%d-%d", os.Getpid(), g))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		places = append(places, cgroup.Place{Dirs: []string{dir}})
		for range threads {
			go func() {
				runtime.LockOSThread() // and never unlocked: the thread ends
				tid := unix.Gettid()
				defer func() {
					// The process's first thread stays on, and must not in its group.
					_ = os.WriteFile(top+"/tasks", []byte(strconv.Itoa(tid)), 0)
					gone <- struct{}{}
				}()
				if err := os.WriteFile(dir+"/tasks", []byte(strconv.Itoa(tid)), 0); err != nil {
					tid = 0
				}
				wake <- tid
				for {
					if _, err := unix.Poll([]unix.PollFd{{Fd: int32(r.Fd())}}, -1); err != unix.EINTR {
						return
					}
				}
			}()
			if <-wake == 0 {
				b.Fatal("a thread did not get into its group")
			}
		}
	}
	b.Cleanup(func() {
		_ = w.Close() // wakes all
		for range groups * threads {
			<-gone
		}
		for _, p := range places {
			for end := time.Now().Add(time.Minute); unix.Rmdir(p.Dirs[0]) == unix.EBUSY && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
		_ = r.Close()
	})
	return places
}

// cpuTime is what this process has used, in nanoseconds.
func cpuTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return ts.Nano()
}

// BenchmarkLoadSample tells what a sample costs for each thread: of 100 containers
// with 10 threads each, once as they sleep, and once when each has used CPU time;
// beside it the plain way, three files opened, read and closed for each thread. The
// share of a CPU is that of 1,000 such containers with a sample each period.
func BenchmarkLoadSample(b *testing.B) {
	const groups, threads = 100, 10
	places := sleepers(b, groups, threads)
	v, err := New(Config{Root: "/", Recheck: time.Minute, MaxFiles: 1000, Now: host.NewClock().Now, Steady: host.Monotonic(),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	var all []*sampled
	for _, p := range places {
		all = append(all, &sampled{registry: v, place: p})
	}
	report := func(b *testing.B, used int64) {
		each := float64(used) / float64(b.N)
		b.ReportMetric(0, "ns/op") // of a machine that does other things too
		b.ReportMetric(each/groups/threads, "cpu-ns/thread")
		b.ReportMetric(100*each*1000/groups/float64(loadavg.Period), "%cpu-of-1000")
	}
	for _, name := range []string{"Sleeping", "Moving"} {
		b.Run(name, func(b *testing.B) {
			start := cpuTime()
			for range b.N {
				for _, g := range all {
					if _, err := g.Used(); err != nil {
						b.Fatal(err)
					}
					if name == "Sleeping" {
						continue
					}
					if n, _, err := g.Count(loadavg.Counts{}, 1<<20); err != nil || n.Total != threads {
						b.Fatal(n, err)
					}
				}
			}
			report(b, cpuTime()-start)
		})
	}
	b.Run("ThreeFiles", func(b *testing.B) {
		buf := make([]byte, 8192)
		start := cpuTime()
		for range b.N {
			for _, p := range places {
				list, err := os.ReadFile(p.Dirs[0] + "/tasks")
				if err != nil {
					b.Fatal(err)
				}
				for _, tid := range splitLines(list) {
					for _, file := range []string{"stat", "status", "schedstat"} {
						fd, err := unix.Open("/proc/"+tid+"/task/"+tid+"/"+file, unix.O_RDONLY, 0)
						if err != nil {
							continue // a kernel without schedstat
						}
						_, _ = unix.Read(fd, buf)
						_ = unix.Close(fd)
					}
				}
			}
		}
		report(b, cpuTime()-start)
	})
}

func splitLines(text []byte) (lines []string) {
	start := 0
	for i, c := range text {
		if c == '\n' {
			lines = append(lines, string(text[start:i]))
			start = i + 1
		}
	}
	return lines
}
