package test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// constant is a Source whose files always say the same: the floor of what any
// content can cost through this loop.
type constant struct{}

func (constant) Append(dst []byte, _ fs.NodeID, _ fs.Caller, _ bool) ([]byte, error) {
	return append(dst, "350735.47 234388.90\n"...), nil
}

// serveFloor serves constant content at dir until SIGTERM.
func serveFloor(dir string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	conn, err := fs.Mount(dir, fs.MountOptions{})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- fs.NewServer(conn, constant{}, fs.ServerOptions{}).Serve() }()
	select {
	case err := <-served:
		return err
	case <-signals:
		return fs.Unmount(dir)
	}
}

// startFloor starts serveFloor in a process of its own, as the daemon is one.
func startFloor(t testing.TB) (dir string, pid int) {
	t.Helper()
	dir = t.TempDir()
	line := toolCommand(t, "floor", dir)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("floor: %v", err)
		}
	})
	waitFor(t, "the floor to serve", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
	})
	return dir, cmd.Process.Pid
}

// cycles does open, read, read (end of file) and close of each path in turn, in
// alternating rounds, so that what disturbs the machine disturbs all of them. It
// prints the median of the rounds for each path, in nanoseconds a cycle.
func cycles(rounds, each int, paths []string) error {
	times := make([][]float64, len(paths))
	buf := make([]byte, 64<<10)
	for range rounds {
		for i, path := range paths {
			start := time.Now()
			for range each {
				if err := cycle(path, buf); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
			times[i] = append(times[i], float64(time.Since(start).Nanoseconds())/float64(each))
		}
	}
	for _, v := range times {
		slices.Sort(v)
		fmt.Println(v[len(v)/2])
	}
	return nil
}

func cycle(path string, buf []byte) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// BenchmarkThroughTheMount compares, in one run and from within a container, the
// view's files with a constant file that the same loop serves (the floor), and
// with the kernel's own, all on one CPU. Only the ratios mean something: the times are those of
// this machine and this minute.
func BenchmarkThroughTheMount(b *testing.B) {
	floor, floorPID := startFloor(b)
	dir, pid := serve(b)
	pin(b, floorPID)
	pin(b, pid)
	c := startContainer(b, "--mount", dir, "--memory", "256M", "--cpus", "1")
	native := b.TempDir()
	c.sh(b, "mount -t proc proc "+native) // in its mount namespace: gone with it
	for _, name := range []string{"uptime", "meminfo", "stat", "cpuinfo", "swaps", "diskstats", "slabinfo", "loadavg"} {
		b.Run(name, func(b *testing.B) {
			paths := []string{"/proc/" + name, filepath.Join(floor, "proc/uptime"), filepath.Join(native, name)}
			var view, constant, kernel []float64
			for b.Loop() {
				args := append([]string{"21", "200"}, paths...)
				out := c.sh(b, strings.Join(toolCommand(b, "cycles", args...), " "))
				v := floats(b, strings.ReplaceAll(out, "\n", " "))
				view, constant, kernel = append(view, v[0]), append(constant, v[1]), append(kernel, v[2])
			}
			median := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
			b.ReportMetric(0, "ns/op") // of the whole run: says nothing
			b.ReportMetric(median(view)/1e3, "view-us")
			b.ReportMetric(median(constant)/1e3, "floor-us")
			b.ReportMetric(median(kernel)/1e3, "kernel-us")
			b.ReportMetric(median(view)/median(constant), "x-floor")
			b.ReportMetric(median(view)/median(kernel), "x-kernel")
		})
	}
}

// pin keeps all threads of a process, and those that they start, on CPU 0, where the
// reader is too. On two CPUs a round trip is mostly the waking of an idle CPU, which
// on this kind of machine costs more than all work, and varies by as much.
func pin(t testing.TB, pid int) {
	t.Helper()
	var cpus unix.CPUSet
	cpus.Set(0)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("threads of %d: %v", pid, err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err == nil {
			err = unix.SchedSetaffinity(tid, &cpus)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// runCycles reads cycles' arguments.
func runCycles(args []string) error {
	runtime.LockOSThread()
	var cpus unix.CPUSet
	cpus.Set(0)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return err
	}
	rounds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	each, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	return cycles(rounds, each, args[2:])
}
