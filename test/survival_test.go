package test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
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

// survivalEnv makes the proof a long one: KILLS,UPGRADES.
const survivalEnv = "VPROCFS_SURVIVAL"

// survivalCounts is how often the worker is killed, and the binary upgraded.
func survivalCounts(t *testing.T) (kills, upgrades int) {
	kills, upgrades = 30, 3
	if s := os.Getenv(survivalEnv); s != "" {
		if _, err := fmt.Sscanf(s, "%d,%d", &kills, &upgrades); err != nil {
			t.Fatalf("%s=%q: %v", survivalEnv, s, err)
		}
	}
	return kills, upgrades
}

// survivalFiles are those that the readers of the proof read: all that are served, of
// the host's entries below sys one.
func survivalFiles() (files []string) {
	for _, name := range []string{
		"/proc/uptime", "/proc/meminfo", "/proc/stat", "/proc/cpuinfo", "/proc/swaps", "/proc/diskstats", "/proc/loadavg", "/proc/slabinfo",
		"/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io",
		"/sys/devices/system/cpu/online", "/sys/devices/system/cpu/present", "/sys/devices/system/cpu/possible",
		"/sys/devices/system/cpu/cpu0/topology/core_id",
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
	case "online", "present", "possible":
		if text != "0\n" {
			return errors.New("not CPU 0")
		}
	case "cpu", "memory", "io":
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

// holdings is what a process has.
type holdings struct{ fds, threads, rss int }

func (r holdings) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, RSS %d kB", r.fds, r.threads, r.rss)
}

func holdingsOf(t *testing.T, pid int) holdings {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	status := fmt.Sprintf("/proc/%d/status", pid)
	return holdings{len(fds), int(statusNumber(t, status, "Threads")), int(statusNumber(t, status, "VmRSS"))}
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

// TestNobodyNoticesThatWorkersDie is the proof of survival: readers in containers
// read every file and check each, while the worker is killed at random moments and
// the binary is upgraded; others of their kind are killed, containers stopped, or
// short of memory, and so is the daemon.
func TestNobodyNoticesThatWorkersDie(t *testing.T) {
	kills, upgrades := survivalCounts(t)
	path, dir := program(t), t.TempDir()
	log := make(chan string, 1)
	t.Cleanup(func() { // after the daemon's end
		if t.Failed() {
			killed, _ := exec.Command("sh", "-c", "dmesg | grep -E 'oom-kill:|Killed process'").Output()
			t.Logf("for want of memory the kernel has killed:\n%s", killed)
			select {
			case text := <-log:
				t.Logf("the daemon's log:\n%s", text)
			case <-time.After(patience):
			}
		}
	})
	group := newGroup(t) // ends after the daemon
	d := startProgram(t, path, dir)
	// They share what memory they have with one who takes all of it, again and again.
	group.limitMemory(t, 32)
	if swap, _ := group.swapFiles(); group.v2["memory"] {
		if _, err := os.Stat(swap); err == nil {
			write(t, swap, "0") // which would take long to fill
		}
	}
	// The kernel may kill more than the greatest, for what that had is not given back at
	// once: beside it are others, as long as it lives, that are killed before the daemon,
	// and who starts them all is not in the group. While there is a file pause nobody
	// takes memory.
	pause := filepath.Join(t.TempDir(), "pause")
	inBackground(t, `pause='`+pause+`' group=$0
		in_group() { sh -c 'echo $$ > "$0/cgroup.procs" && echo 1000 > /proc/self/oom_score_adj && exec "$@"' "$group" "$@"; }
		while :; do
			if [ -e "$pause" ]; then
				> "$pause.seen"
			else
				rm -f "$pause.seen"
				in_group tail /dev/zero | { for i in 1 2 3 4 5 6; do in_group cat <&3 & done; wait; } 3<&0
			fi
			sleep 0.3
		done`, group.dirs["memory"])
	for _, pid := range []int{d.cmd.Process.Pid, d.worker(t)} {
		write(t, filepath.Join(group.dirs["memory"], "cgroup.procs"), strconv.Itoa(pid))
	}
	go func() {
		var b bytes.Buffer
		_, _ = d.log.WriteTo(&b)
		log <- b.String()
	}()

	const containers = 3
	var readers []*container
	for i := range containers {
		memory := 64 + 16*i
		flags := []string{"--mount", dir, "--memory", fmt.Sprint(memory, "M"), "--cpus", "1", "--cpuset", "0"}
		readers = append(readers, startCommand(t, flags, toolCommand(t, "survive", strconv.Itoa(memory<<10))...))
	}
	// Who dies in the middle of something, with all the rest.
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() {
		for end := "sleep 0.03; kill -9 -1"; ; {
			select {
			case <-over:
				return
			case <-time.After(200 * time.Millisecond):
			}
			// It ends by itself, after some reads that it does not end.
			_, _, _ = vprocfs(t, "run", "--mount", dir, "--memory", "32M", "--",
				"sh", "-c", "for i in 1 2 3; do cat /proc/stat /proc/meminfo >/dev/null & done; "+end)
			end = "exec tail /dev/zero" // for want of memory
		}
	})

	progress := func() (sum int) {
		for _, c := range readers {
			fmt.Fprint(c.in, "\n")
			line, err := c.out.ReadString('\n')
			n, convErr := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || convErr != nil {
				t.Fatalf("a reader has ended: %v %q", err, line)
			}
			sum += n
		}
		return sum
	}
	var first, last holdings
	var holderFirst, holderLast holdings
	// The upgrades come in the first half, for each makes the holder anew: what it would
	// lose with each kill shows in the second.
	replaced, half := 0, (kills+upgrades)/2
	for i := range kills + upgrades {
		before := progress()
		waitFor(t, "something to be read", func() bool { return progress() > before })
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		worker := d.worker(t)
		if kills > 0 && i%max(half/max(upgrades, 1), 1) == 0 && replaced < upgrades {
			replaced++
			// Whoever is in the middle of execve(2) when there is no memory is killed,
			// and then there is no holder any more.
			waitFor(t, "memory to be taken again", func() bool { _, err := os.Stat(pause + ".seen"); return err != nil })
			replaceFile(t, pause, "")
			waitFor(t, "memory for an upgrade", func() bool { _, err := os.Stat(pause + ".seen"); return err == nil })
			_, stderr, status := vprocfs(t, "upgrade", dir)
			if err := os.Remove(pause); err != nil {
				t.Error(err)
			}
			if status != 0 {
				t.Fatalf("upgrade: exit status %d: %s", status, stderr)
			}
		} else if err := unix.Kill(worker, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "another worker", func() bool { return d.worker(t) != worker })
		if i == half || i == kills+upgrades-1 {
			before := progress()
			waitFor(t, "the files to be read again", func() bool { return progress() > before+200 })
			last, holderLast = holdingsOf(t, d.worker(t)), holdingsOf(t, d.cmd.Process.Pid)
			if i == half {
				first, holderFirst = last, holderLast
			}
		}
	}
	close(over)
	wg.Wait()
	total, longest := 0, 0
	for _, c := range readers {
		c.in.Close()
		out, err := c.out.ReadString('\n')
		var n, l int
		if _, scanErr := fmt.Sscan(out, &n, &l); err != nil || scanErr != nil {
			t.Errorf("a reader: %v %v %q", err, scanErr, out)
		}
		total, longest = total+n, max(longest, l)
	}
	t.Logf("%d files read whole over %d kills and %d upgrades; the longest system call took %v",
		total, kills, replaced, time.Duration(longest)*time.Microsecond)
	short := filepath.Join(group.dirs["memory"], "memory.failcnt")
	if group.v2["memory"] {
		short = filepath.Join(group.dirs["memory"], "memory.events")
	}
	t.Logf("the daemon was short of memory: %s", strings.Join(strings.Fields(readFile(t, short)), " "))
	t.Logf("worker: %v, at last %v; holder: %v, at last %v", first, last, holderFirst, holderLast)
	for _, r := range [][2]holdings{{first, last}, {holderFirst, holderLast}} {
		// Threads of Go come and go; what leaks does so with each kill.
		const some = 12
		if r[1].fds > r[0].fds+some+50 || r[1].threads > r[0].threads+some || r[1].rss > r[0].rss+8<<10 {
			t.Errorf("grown from %v to %v", r[0], r[1])
		}
	}
	if r := [2]holdings{holderFirst, holderLast}; r[1].fds > r[0].fds || r[1].rss > r[0].rss+4<<10 {
		t.Errorf("the holder has grown from %v to %v", r[0], r[1])
	}
	d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case text := <-log:
		if strings.Contains(text, "panic") || strings.Contains(text, "level=ERROR") {
			t.Errorf("log:\n%s", text)
		}
	case <-time.After(patience):
		t.Error("the daemon does not end")
	}
}

// TestCountersGoOnAfterTheWorker compares what is shown before and after a kill
// with each other: the idle time that the account has given a CPU cannot be made
// again from the control group's numbers.
func TestCountersGoOnAfterTheWorker(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	c := startContainer(t, "--mount", dir, "--cpus", "1", "--memory", "64M")
	row := func() (numbers []uint64) {
		f := strings.Fields(strings.SplitN(c.sh(t, "cat /proc/stat"), "\n", 2)[0])
		for _, v := range f[1:] {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, n)
		}
		return numbers
	}
	for range 5 {
		c.sh(t, "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
		last := row()
		unix.Kill(d.worker(t), unix.SIGKILL)
		now := row()
		for i := range last {
			if now[i] < last[i] {
				t.Errorf("number %d of stat went back from %d to %d", i, last[i], now[i])
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "proc/stat")); err != nil {
		t.Error(err)
	}
}
