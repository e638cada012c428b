// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// worstEnv is for how many milliseconds each run of the worst measures.
const worstEnv = "VPROCFS_WORST"

// What one container may do to another: in the median of worstRuns runs, the other's
// longest read takes less than longestRead, and its median less than quietFactor times the
// quiet one. A machine without CPU time to spare delays both the daemon and any other
// process: up to echoFactor times as long as three answers of a process that does nothing
// else are allowed too. Before the threads of one owner were put aside, it was 19 to 65
// times as long.
const (
	worstRuns   = 5
	longestRead = 50_000 // us
	quietFactor = 2
	echoFactor  = 8
)

// timing is the median and the longest of some times, in microseconds.
type timing struct{ median, longest float64 }

// timings are those of a read of our uptime, a read of the kernel's own, and three answers
// of an echo, one after the other in one thread.
type timings struct{ ours, kernels, echo timing }

func (t timings) String() string {
	return fmt.Sprintf("median, longest, us: %.0f of ours, %.0f of the kernel's file, %.0f of the echo", t.ours, t.kernels, t.echo)
}

// neighbour is the container that others are to leave alone.
type neighbour struct {
	*container
	line string
}

func startNeighbour(t *testing.T, dir string) *neighbour {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "echo")
	command := toolCommand(t, "echo", socket)
	talkTo(t, exec.Command(command[0], command[1:]...))
	waitFor(t, "the echo", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	ms := 500
	if s := os.Getenv(worstEnv); s != "" {
		var err error
		if ms, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s=%q: %v", worstEnv, s, err)
		}
	}
	n := &neighbour{line: fmt.Sprint(ms, " /proc/uptime ", mountOf(t, "proc"), "/uptime ", socket)}
	n.container = startCommand(t, []string{"--mount", dir, "--memory", "64M"}, toolCommand(t, "neighbour")...)
	n.answer(t, n.line, ".") // the container is known from here on
	return n
}

// measure returns the medians of worstRuns runs.
func (n *neighbour) measure(t *testing.T, what string) timings {
	t.Helper()
	var columns [6][]float64
	for range worstRuns {
		for i, v := range floats(t, n.answer(t, n.line, ".")) {
			columns[i] = append(columns[i], v)
		}
	}
	for i := range columns {
		slices.Sort(columns[i])
	}
	middle := func(i int) timing { return timing{columns[i][worstRuns/2], columns[i+1][worstRuns/2]} }
	all := timings{middle(0), middle(2), middle(4)}
	t.Logf("%s: %v", what, all)
	return all
}

// timeNeighbour measures for some time, "MILLISECONDS OURS KERNELS ECHO".
func timeNeighbour(line string) error {
	var ms int
	var ours, kernels, socket string
	if _, err := fmt.Sscan(line, &ms, &ours, &kernels, &socket); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return err
	}
	runtime.LockOSThread()
	buf := make([]byte, 64<<10)
	var times [3][]float64
	for end := time.Now().Add(time.Duration(ms) * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for i, do := range []func() error{
			func() error { return cycle(ours, buf) },
			func() error { return cycle(kernels, buf) },
			func() error { return errors.Join(ask(fd), ask(fd), ask(fd)) },
		} {
			start := time.Now()
			if err := do(); err != nil {
				return err
			}
			times[i] = append(times[i], float64(time.Since(start))/1e3)
		}
	}
	for _, t := range times {
		slices.Sort(t)
		fmt.Printf("%.1f %.1f ", t[len(t)/2], t[len(t)-1])
	}
	fmt.Println()
	return nil
}

// ask sends a byte and waits for the answer.
func ask(fd int) error {
	var b [1]byte
	if _, err := unix.Write(fd, b[:]); err != nil {
		return err
	}
	n, err := unix.Read(fd, b[:])
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// echo answers each byte from one connection after the other, with the daemon's priority.
func echo(socket string) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -10); err != nil {
		return err
	}
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 1)); err != nil {
		return err
	}
	go func() { // talkTo ends it by its input
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return err
		}
		var b [1]byte
		for {
			if n, err := unix.Read(conn, b[:]); n <= 0 || err != nil {
				break
			}
			if _, err := unix.Write(conn, b[:]); err != nil {
				break
			}
		}
		unix.Close(conn)
	}
}

// TestTheWorstOfOneContainerDelaysNoOther has a container of one CPU do the worst it can,
// and measures the reads of another.
func TestTheWorstOfOneContainerDelaysNoOther(t *testing.T) {
	flags := func(dir string) []string { return []string{"--mount", dir, "--memory", "8G", "--cpus", "1"} }
	for _, tt := range []struct {
		name  string
		start func(t *testing.T, dir string)
	}{
		{"9000 handles, and opens 31 namespaces deep", func(t *testing.T, dir string) {
			script := filepath.Join(t.TempDir(), "deep.sh")
			if err := os.WriteFile(script, []byte(`n=$1; shift; if [ $n -gt 0 ]; then exec unshare -pf sh "$0" $((n-1)) "$@"; fi; exec "$@"`), 0o755); err != nil {
				t.Fatal(err)
			}
			hoard, hammer := toolCommand(t, "hoard"), toolCommand(t, "hammer")
			deep := startCommand(t, flags(dir), append([]string{"sh", "-c",
				`(echo 9000 /proc/uptime; exec sleep 1000) | ` + quoted(hoard) + ` >/dev/null & exec sh "$@"`, "sh", script, "30"}, hammer...)...)
			deep.answer(t, "start 60 /proc/uptime", ".")
		}},
		{"64 threads that read all files", func(t *testing.T, dir string) {
			hammer := startCommand(t, flags(dir), toolCommand(t, "hammer")...)
			files := make([]string, 0, 16)
			for name := range wholeFiles() {
				files = append(files, name)
			}
			slices.Sort(files)
			for i := range 64 {
				hammer.answer(t, "start 1 /proc/"+files[i%len(files)], ".")
			}
		}},
		{"pressure writes of 4 KiB", func(t *testing.T, dir string) {
			if len(pressureFiles()) == 0 {
				t.Skip("not run: this kernel has no /proc/pressure to write to (CONFIG_PSI=n or psi=0); a kernel with PSI runs it")
			}
			hammer := startCommand(t, flags(dir), toolCommand(t, "hammer")...)
			hammer.answer(t, "write 64 /proc/pressure/cpu", ".")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, _ := serve(t)
			besideTheWorst(t, startNeighbour(t, dir), func() { tt.start(t, dir) })
		})
	}
	t.Run("new pid namespaces", func(t *testing.T) {
		dir, pid := serve(t)
		n := startNeighbour(t, dir)
		bomb := startCommand(t, flags(dir), toolCommand(t, "namespaces")...)
		besideTheWorst(t, n, func() { fmt.Fprintln(bomb.in, "16000 /proc/stat") })
		most, _, _ := daemonSize(t, pid)
		made := len(children(children(bomb.init)[0]))
		if err := unix.Kill(bomb.init, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(time.Minute)
		rss, _, _ := daemonSize(t, pid)
		for ; rss >= 64<<10; rss, _, _ = daemonSize(t, pid) {
			if time.Now().After(end) {
				t.Fatalf("the daemon's RSS is %d KiB a minute after, and was %d", rss, most)
			}
			sleep(500)
		}
		t.Logf("the daemon's RSS was %d KiB after %d namespaces, and is %d", most, made, rss)
	})
}

// besideTheWorst measures n before and after start.
func besideTheWorst(t *testing.T, n *neighbour, start func()) {
	t.Helper()
	quiet := n.measure(t, "quiet")
	start()
	for attempt := 1; ; attempt++ {
		busy := n.measure(t, "beside it")
		median := max(quietFactor*quiet.ours.median, echoFactor*busy.echo.median)
		longest := max(longestRead, echoFactor*max(busy.echo.longest, quiet.ours.longest))
		if busy.ours.median < median && busy.ours.longest < longest {
			return
		} else if attempt == 5 {
			t.Fatalf("median %.0f us, want less than %.0f; longest %.0f, want less than %.0f", busy.ours.median, median, busy.ours.longest, longest)
		}
	}
}

// namespacesThatRead makes pid namespaces, "COUNT PATH", whose inits read the file once
// and live on, and prints how many.
func namespacesThatRead(line string) error {
	var n int
	var path string
	if _, err := fmt.Sscan(line, &n, &path); err != nil {
		return err
	}
	name, err := unix.ByteSliceFromString(path)
	if err != nil {
		return err
	}
	var buf [4096]byte
	for i := range n {
		if errno := cloneReader(&name[0], &buf[0], uintptr(len(buf))); errno != 0 {
			return fmt.Errorf("namespace %d: %w", i, errno)
		}
	}
	fmt.Println(n)
	return nil
}

// cloneReader clones a process that is the init of a pid namespace, reads a file to its
// end, and then sleeps. It is a copy of a Go runtime without its other threads, so it
// makes nothing but system calls.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func cloneReader(path, buf *byte, size uintptr) unix.Errno {
	flags, stack := uintptr(unix.SIGCHLD|unix.CLONE_NEWPID), uintptr(0)
	if runtime.GOARCH == "s390x" { // CONFIG_CLONE_BACKWARDS2
		flags, stack = stack, flags
	}
	at := unix.AT_FDCWD
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return errno
	}
	fd, _, _ := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), unix.O_RDONLY, 0, 0, 0)
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(buf)), size)
		if errno != 0 || n == 0 {
			break
		}
	}
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	for {
		_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// writeLong writes 4 KiB that are no trigger.
func writeLong(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, bytes.Repeat([]byte("x"), 4096)); err != unix.EINVAL && err != unix.EAGAIN {
		return fmt.Errorf("write of garbage: %v", err)
	}
	return nil
}
