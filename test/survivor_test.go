// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"os"
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

// survivalFiles are those that the readers of the proof read: all that are served, of
// the host's entries below sys one.
func survivalFiles() (files []string) {
	for _, name := range []string{
		"/proc/uptime", "/proc/meminfo", "/proc/stat", "/proc/cpuinfo", "/proc/swaps", "/proc/diskstats", "/proc/loadavg", "/proc/slabinfo", "/proc/cgroups", "/proc/vmstat",
		"/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io", "/proc/pressure/irq",
		"/sys/devices/system/cpu/online", "/sys/devices/system/cpu/present", "/sys/devices/system/cpu/possible",
		"/sys/devices/system/cpu/cpu0/topology/core_id", "/sys/devices/system/node/node0/distance",
	} {
		// Not every kernel has PSI.
		if _, err := os.Stat(name); err == nil || !errors.Is(err, os.ErrNotExist) {
			files = append(files, name)
		}
	}
	return files
}

// survivor is one reader: it reads all files over and over, in pieces of its own
// size, and checks each.
type survivor struct {
	memTotal string // kB
	size     int    // of the pieces
	last     map[string][]uint64
}

// survive is a tool: it reads until its input ends, from several threads, and then
// prints how many files it read and how long the longest system call took, in
// microseconds. The first thing that is wrong ends it.
func survive(memTotal string) error {
	var reads, longest atomic.Int64
	failed := make(chan error, 8)
	stop := make(chan struct{})
	files := survivalFiles()
	var wg sync.WaitGroup
	for _, size := range []int{1, 61, 4096, 1 << 17} {
		wg.Go(func() {
			runtime.LockOSThread()
			s := &survivor{memTotal: memTotal, size: size, last: make(map[string][]uint64)}
			for {
				for _, name := range files {
					select {
					case <-stop:
						return
					default:
					}
					if err := s.read(name, &longest); err != nil {
						failed <- fmt.Errorf("%s in pieces of %d: %w", name, size, err)
						return
					}
					reads.Add(1)
				}
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
			fmt.Println(reads.Load())
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
	fmt.Println(reads.Load(), longest.Load())
	return nil
}

// read reads and checks a file.
func (s *survivor) read(name string, longest *atomic.Int64) error {
	start := time.Now()
	timed := func() {
		d := time.Since(start).Microseconds()
		for l := longest.Load(); d > l && !longest.CompareAndSwap(l, d); l = longest.Load() {
		}
		start = time.Now()
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	timed()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	var text []byte
	buf := make([]byte, s.size)
	for {
		n, err := unix.Read(fd, buf)
		timed()
		if err == unix.EINTR {
			continue // a signal of Go's scheduler
		}
		if err != nil {
			return fmt.Errorf("read at %d: %w", len(text), err)
		}
		if n == 0 {
			break
		}
		text = append(text, buf[:n]...)
	}
	if err := s.check(name, string(text)); err != nil {
		return fmt.Errorf("%w in\n%s", err, text)
	}
	return nil
}

// check tells whether text is whole, this container's, and not behind what it was.
func (s *survivor) check(name, text string) error {
	name = filepath.Base(name)
	if text == "" && name == "diskstats" {
		return nil // it has used no disk
	}
	if text == "" || !strings.HasSuffix(text, "\n") {
		return errors.New("no end")
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	switch name {
	case "uptime":
		return s.checkUptime(lines)
	case "meminfo":
		if f := strings.Fields(lines[0]); len(f) != 3 || f[0] != "MemTotal:" || f[1] != s.memTotal {
			return fmt.Errorf("MemTotal is not %s kB", s.memTotal)
		}
		for _, line := range lines {
			if f := strings.Fields(line); len(f) < 2 || !strings.HasSuffix(f[0], ":") {
				return fmt.Errorf("odd line %q", line)
			}
		}
	case "stat":
		return s.checkStat(lines)
	case "cpuinfo":
		if n := strings.Count(text, "processor\t: "); n != 1 {
			return fmt.Errorf("%d processors", n)
		}
	case "swaps":
		if !strings.HasPrefix(lines[0], "Filename") || len(lines) > 2 {
			return errors.New("no swaps")
		}
	case "diskstats":
		for _, line := range lines {
			if len(strings.Fields(line)) < 14 {
				return fmt.Errorf("odd line %q", line)
			}
		}
	case "loadavg":
		return checkLoadavg(lines)
	case "slabinfo":
		if len(lines) != 2 || !strings.HasPrefix(lines[1], "# name ") {
			return errors.New("not the heading")
		}
	case "vmstat":
		return s.checkVmstat(lines)
	case "cgroups":
		for _, line := range lines[1:] {
			if !strings.HasSuffix(line, "\t1\t1") {
				return fmt.Errorf("not one group: %q", line)
			}
		}
	case "online", "present", "possible":
		if text != "0\n" {
			return errors.New("not CPU 0")
		}
	case "cpu", "memory", "io", "irq":
		return s.checkPressure(name, lines)
	}
	return nil
}

// checkLoadavg looks for the container's own numbers: it has some threads, and every
// host hundreds.
func checkLoadavg(lines []string) error {
	var load [3]float64
	var running, threads, last int
	if n, err := fmt.Sscanf(lines[0], "%f %f %f %d/%d %d", &load[0], &load[1], &load[2], &running, &threads, &last); n != 6 || len(lines) != 1 {
		return fmt.Errorf("not five fields: %w", err)
	}
	if threads > 50 {
		return fmt.Errorf("%d threads", threads)
	}
	return nil
}

// checkVmstat looks at what only grows.
func (s *survivor) checkVmstat(lines []string) error {
	var counters []uint64
	for _, line := range lines {
		var name string
		var n uint64
		if _, err := fmt.Sscanf(line, "%s %d", &name, &n); err != nil {
			return fmt.Errorf("odd line %q: %w", line, err)
		}
		if strings.HasPrefix(name, "pg") || name == "oom_kill" {
			counters = append(counters, n)
		}
	}
	return s.notBack("vmstat", counters)
}

func (s *survivor) checkPressure(name string, lines []string) error {
	for _, line := range lines {
		var avg [3]float64
		var what string
		var total uint64
		if n, err := fmt.Sscanf(line, "%s avg10=%f avg60=%f avg300=%f total=%d", &what, &avg[0], &avg[1], &avg[2], &total); n != 5 {
			return fmt.Errorf("odd line %q: %w", line, err)
		}
		if err := s.notBack(name+" "+what, []uint64{total}); err != nil {
			return err
		}
	}
	return nil
}

// notBack checks numbers that only grow.
func (s *survivor) notBack(name string, numbers []uint64) error {
	for i, n := range s.last[name] {
		if i < len(numbers) && numbers[i] < n {
			return fmt.Errorf("number %d of %s went back from %d to %d", i, name, n, numbers[i])
		}
	}
	s.last[name] = numbers
	return nil
}

func (s *survivor) checkUptime(lines []string) error {
	f := strings.Fields(lines[0])
	if len(lines) != 1 || len(f) != 2 {
		return errors.New("not two numbers")
	}
	var numbers []uint64
	for _, v := range f[:1] {
		n, err := strconv.ParseUint(strings.Replace(v, ".", "", 1), 10, 64)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	return s.notBack("uptime", numbers)
}

func (s *survivor) checkStat(lines []string) error {
	if !strings.HasPrefix(lines[0], "cpu  ") || len(lines) < 4 || !strings.HasPrefix(lines[1], "cpu") || !strings.HasPrefix(lines[2], "intr ") {
		return errors.New("not the rows of one CPU")
	}
	for _, line := range lines[:2] {
		f := strings.Fields(line)
		var numbers []uint64
		for _, v := range f[1:] {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return err
			}
			numbers = append(numbers, n)
		}
		if len(numbers) != 10 {
			return fmt.Errorf("%d numbers in %q", len(numbers), line)
		}
		if err := s.notBack("row "+f[0], numbers); err != nil {
			return err
		}
	}
	return nil
}

// survivorIn starts a container with the files of the mount, whose readers check all
// they read, and returns a function that tells how many files they have read.
func survivorIn(t *testing.T, mount string) (c *container, progress func(*testing.T) int) {
	t.Helper()
	const memory = 64
	flags := []string{"--mount", mount, "--memory", fmt.Sprint(memory, "M"), "--cpus", "0.5", "--cpuset", "0"}
	c = startCommand(t, flags, toolCommand(t, "survive", strconv.Itoa(memory<<10))...)
	return c, func(t *testing.T) int {
		t.Helper()
		fmt.Fprint(c.in, "\n")
		line, err := c.out.ReadString('\n')
		n, convErr := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || convErr != nil {
			t.Fatalf("the readers have ended: %v %q", err, line)
		}
		return n
	}
}

// wantReads waits until some files more are read to their ends, which takes seconds in
// a guest.
func wantReads(t *testing.T, progress func(*testing.T) int) {
	t.Helper()
	before := progress(t)
	waitFor(t, "the files to be read", func() bool { return progress(t) > before+8 })
}

// endSurvivor ends the readers, and logs how long they had to wait.
func endSurvivor(t *testing.T, c *container) {
	t.Helper()
	c.in.Close()
	out, err := c.out.ReadString('\n')
	var n, longest int
	if _, scanErr := fmt.Sscan(out, &n, &longest); err != nil || scanErr != nil {
		t.Fatalf("the readers: %v %v %q", err, scanErr, out)
	}
	t.Logf("%d files read whole, the longest system call took %v", n, time.Duration(longest)*time.Microsecond)
}
