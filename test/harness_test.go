// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long tests wait for what must happen. It is long, for loaded
// machines and guests on them; what is right comes much sooner.
const patience = 2 * time.Minute

func sleep(ms int) { time.Sleep(time.Duration(ms) * time.Millisecond) }

// waitFor waits until done is true.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); sleep(10) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// vprocfs runs the binary to its end.
func vprocfs(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.Command("vprocfs", args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	// No terminal, whatever the tests themselves have.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%s: %v", cmd, err)
	} else if ok && !exit.Exited() {
		t.Fatalf("%s: %v\n%s", cmd, err, &e)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// inContainer returns what a command prints in a throwaway container.
func inContainer(t testing.TB, flags []string, command ...string) string {
	t.Helper()
	args := slices.Concat([]string{"run"}, flags, []string{"--"}, command)
	out, stderr, status := vprocfs(t, args...)
	if status != 0 || stderr != "" {
		t.Fatalf("vprocfs %s: exit status %d\n%s%s", strings.Join(args, " "), status, out, stderr)
	}
	return out
}

// container is a running `vprocfs run` whose command is a shell that the test
// talks to.
type container struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	init int // pid of its init, as the host sees it
}

// startContainer starts one, and ends it with the test.
func startContainer(t testing.TB, flags ...string) *container {
	t.Helper()
	return startCommand(t, flags, "sh")
}

// startCommand starts a container whose command reads lines from its input and
// answers them.
func startCommand(t testing.TB, flags []string, command ...string) *container {
	t.Helper()
	cmd := exec.Command("vprocfs", slices.Concat([]string{"run"}, flags, []string{"--"}, command)...)
	c := talkTo(t, cmd)
	// The init is in its cgroups when the command runs, and not before.
	waitFor(t, "the container's command", func() bool {
		kids := children(cmd.Process.Pid)
		if len(kids) == 1 {
			c.init = kids[0]
		}
		return len(kids) == 1 && len(children(c.init)) == 1
	})
	return c
}

// talkTo starts a command, which ends with its input, and so with the test.
func talkTo(t testing.TB, cmd *exec.Cmd) *container {
	t.Helper()
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &container{cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close()
		c.cmd.Wait()
	})
	return c
}

// answer sends a line and returns what comes back, up to a line that is end.
func (c *container) answer(t testing.TB, line, end string) string {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for {
		s, err := c.out.ReadString('\n')
		if err != nil {
			t.Fatalf("%q in the container: %v after %q", line, err, b.String())
		}
		if s == end+"\n" {
			return b.String()
		}
		b.WriteString(s)
	}
}

// sh runs a shell command in the container and returns what it prints.
func (c *container) sh(t testing.TB, command string) string {
	t.Helper()
	return c.answer(t, command+"\necho :end:", ":end:")
}

// children returns the pids of the children of pid's threads. Not every kernel
// lists them (CONFIG_PROC_CHILDREN). Debian's do, and in a guest a look through
// all of /proc takes longer than the start of a container that it waits for.
func children(pid int) []int {
	var pids []int
	if lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)); len(lists) > 0 { // the pattern is well formed
		for _, list := range lists {
			b, _ := os.ReadFile(list) // an error says that the thread is gone
			for s := range strings.FieldsSeq(string(b)) {
				if child, err := strconv.Atoi(s); err == nil {
					pids = append(pids, child)
				}
			}
		}
		return pids
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, stat := range stats {
		f := statFields(stat)
		if len(f) > 4 && f[4] == strconv.Itoa(pid) {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			pids = append(pids, n)
		}
	}
	return pids
}

// statFields returns the fields of /proc/PID/stat by their numbers in
// proc_pid_stat(5), from 1; the comm, field 2, is left empty. It is nil where
// the process is gone.
func statFields(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return append([]string{"", "", ""}, strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))...)
}

// cgroupDir returns the directory of the cgroup of pid that has the controller,
// and whether that is v2. It has no code of vprocfs, so that it can judge it.
func cgroupDir(t testing.TB, pid int, controller string) (dir string, v2 bool) {
	t.Helper()
	membership := readFile(t, fmt.Sprintf("/proc/%d/cgroup", pid))
	unified := ""
	for line := range strings.Lines(membership) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[1] == "" {
			unified = f[2]
		}
		if slices.Contains(strings.Split(f[1], ","), controller) {
			return filepath.Join(cgroupMount(t, "cgroup", controller), f[2]), false
		}
	}
	return filepath.Join(cgroupMount(t, "cgroup2", ""), unified), true
}

// ownCgroup is cgroupDir for the container's own cgroup, which a test may write
// to. Others are not ours.
func (c *container) ownCgroup(t testing.TB, controller string) (dir string, v2 bool) {
	t.Helper()
	dir, v2 = cgroupDir(t, c.init, controller)
	if want := "vprocfs-run-" + strconv.Itoa(c.cmd.Process.Pid); filepath.Base(dir) != want {
		t.Fatalf("the container's %s cgroup is %s and not %s", controller, dir, want)
	}
	return dir, v2
}

func cgroupMount(t testing.TB, fstype, controller string) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/mounts")) {
		f := strings.Fields(line)
		if f[2] == fstype && (controller == "" || slices.Contains(strings.Split(f[3], ","), controller)) {
			return f[1]
		}
	}
	t.Fatalf("no mount of %s %s", fstype, controller)
	return ""
}

// cgroupNumber reads a number from a file of the cgroup of pid, named for v1 and
// for v2; in a file with keys ("v2file key") that of the key.
func cgroupNumber(t testing.TB, pid int, controller, v1, v2 string) uint64 {
	t.Helper()
	dir, isV2 := cgroupDir(t, pid, controller)
	name := v1
	if isV2 {
		name = v2
	}
	file, key, _ := strings.Cut(name, " ")
	for line := range strings.Lines(readFile(t, filepath.Join(dir, file))) {
		f := strings.Fields(line)
		if key == "" || f[0] == key {
			n, err := strconv.ParseUint(f[len(f)-1], 10, 64)
			if err != nil {
				t.Fatalf("%s/%s: %v", dir, name, err)
			}
			return n
		}
	}
	t.Fatalf("%s/%s: no such key", dir, name)
	return 0
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// boottime is CLOCK_BOOTTIME in seconds, what /proc/uptime counts by.
func boottime(t testing.TB) float64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return float64(ts.Nano()) / 1e9
}

// meminfo returns the values of a /proc/meminfo by name, in its units.
func meminfo(t testing.TB, text string) map[string]uint64 {
	t.Helper()
	m := make(map[string]uint64)
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			t.Fatalf("meminfo: odd line %q", line)
		}
		n, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			t.Fatalf("meminfo: %q: %v", line, err)
		}
		m[name] = n
	}
	return m
}

// killDaemon kills a daemon, its holder and its worker: each would replace the
// other.
func killDaemon(cmd *exec.Cmd) {
	// Errors say that it has ended.
	_ = cmd.Process.Signal(unix.SIGSTOP)
	for _, worker := range children(cmd.Process.Pid) {
		_ = unix.Kill(worker, unix.SIGKILL)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// workerOf returns the pid of the worker that a line of a daemon's log names.
func workerOf(t testing.TB, line string) int {
	t.Helper()
	_, rest, _ := strings.Cut(line, " worker=")
	pid, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
	if err != nil {
		t.Fatalf("no worker in %q", line)
	}
	return pid
}

// serve starts a daemon on a directory of its own, and ends it with the test, which
// must not have brought an error into its log. The pid is that of its worker.
func serve(t testing.TB, flags ...string) (dir string, pid int) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("vprocfs", slices.Concat([]string{"serve"}, flags, []string{dir})...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewReader(stderr)
	line, err := log.ReadString('\n')
	if err != nil || !strings.Contains(line, "msg=serving") {
		t.Fatalf("%s: %v: %s", cmd, err, line)
	}
	rest := make(chan string)
	go func() {
		var b strings.Builder
		_, _ = log.WriteTo(&b)
		rest <- b.String()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		text := <-rest
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", cmd, err)
		}
		// A panic over one request is an error of that request, and in the log.
		if strings.Contains(text, "level=ERROR") {
			t.Errorf("%s: %s", cmd, text)
		}
	})
	return dir, workerOf(t, line)
}
