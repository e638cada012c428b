// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cgroupsOf returns the cgroups that the run with this pid has made.
func cgroupsOf(t testing.TB, pid int) []string {
	t.Helper()
	var found []string
	name := "vprocfs-run-" + strconv.Itoa(pid)
	for line := range strings.Lines(readFile(t, "/proc/mounts")) {
		f := strings.Fields(line)
		if f[2] != "cgroup" && f[2] != "cgroup2" {
			continue
		}
		err := filepath.WalkDir(f[1], func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == name {
				found = append(found, path)
			}
			return nil // others may remove theirs while we walk
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// processesIn returns the pids in the pid namespace with this inode.
func processesIn(namespace string) []string {
	var pids []string
	links, _ := filepath.Glob("/proc/[0-9]*/ns/pid") // the pattern is well formed
	for _, link := range links {
		if ns, err := os.Readlink(link); err == nil && ns == namespace {
			pids = append(pids, link)
		}
	}
	return pids
}

// TestNothingIsLeftBehind ends containers in every way there is.
func TestNothingIsLeftBehind(t *testing.T) {
	signalRun := func(s unix.Signal) func(*testing.T, *container) {
		return func(t *testing.T, c *container) { c.cmd.Process.Signal(s) }
	}
	shell := func(line string) func(*testing.T, *container) {
		return func(t *testing.T, c *container) { fmt.Fprintln(c.in, line) }
	}
	for _, tt := range []struct {
		name   string
		end    func(*testing.T, *container)
		status int
	}{
		{"its command ends", shell("exit"), 0},
		{"its command fails", shell("exit 7"), 7},
		{"its command is killed", shell("kill -KILL $$"), 128 + 9},
		{"its command is terminated", shell("kill -TERM $$"), 128 + 15},
		{"its command leaves daemons", shell("for i in 1 2 3; do setsid sleep 1000 & done; exit 4"), 4},
		{"its command makes cgroups", shell(`find /sys/fs/cgroup -type d -name "vprocfs-run-$RUN" -exec mkdir -p {}/a/b \;; exit 5`), 5},
		{"run is terminated", signalRun(unix.SIGTERM), 128 + 15},
		{"run is interrupted", signalRun(unix.SIGINT), 128 + 2},
		{"run is hung up", signalRun(unix.SIGHUP), 128 + 1},
		{"its init is killed", func(t *testing.T, c *container) { unix.Kill(c.init, unix.SIGKILL) }, 128 + 9},
		{"its init is terminated", func(t *testing.T, c *container) { unix.Kill(c.init, unix.SIGTERM) }, 128 + 15},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := mountsOfHost(t)
			// A shell ignores TERM and INT only where it is interactive.
			c := startContainer(t)
			c.sh(t, fmt.Sprintf("RUN=%d", c.cmd.Process.Pid))
			if len(cgroupsOf(t, c.cmd.Process.Pid)) == 0 {
				t.Fatal("the container has no cgroup to leave behind")
			}
			if during := mountsOfHost(t); during != before {
				t.Errorf("the host sees mounts of the container:\n%s\nbefore:\n%s", during, before)
			}
			namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.init))
			if err != nil {
				t.Fatal(err)
			}
			tt.end(t, c)
			c.cmd.Wait()
			if got := c.cmd.ProcessState.ExitCode(); got != tt.status {
				t.Errorf("exit status %d, want %d", got, tt.status)
			}
			if left := processesIn(namespace); len(left) > 0 {
				t.Errorf("processes left: %s", left)
			}
			if left := cgroupsOf(t, c.cmd.Process.Pid); len(left) > 0 {
				t.Errorf("cgroups left: %s", left)
			}
		})
	}
}

// mountsOfHost returns the lines of mountinfo that could be of a container.
func mountsOfHost(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], "/proc/") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestContainerDiesWithAKilledRun(t *testing.T) {
	c := startContainer(t)
	c.sh(t, "trap '' TERM HUP INT; { setsid sleep 1000 & }")
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.init))
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Process.Kill()
	c.cmd.Wait()
	waitFor(t, "the container's processes to die", func() bool { return len(processesIn(namespace)) == 0 })

	// Cgroups are all that it can leave. The next run removes them.
	if len(cgroupsOf(t, c.cmd.Process.Pid)) == 0 {
		t.Fatal("a killed run has left no cgroup: nothing to test")
	}
	waitFor(t, "the next run to remove the cgroups", func() bool {
		inContainer(t, nil, "true")
		return len(cgroupsOf(t, c.cmd.Process.Pid)) == 0
	})
}

func TestRunKillsAContainerThatIgnoresTERM(t *testing.T) {
	c := startContainer(t)
	c.sh(t, "trap '' TERM")
	c.cmd.Process.Signal(unix.SIGTERM)
	sleep(1000)
	if got := c.sh(t, "echo alive"); got != "alive\n" {
		t.Fatalf("after TERM: %q", got)
	}
	done := make(chan struct{})
	go func() { c.cmd.Wait(); close(done) }()
	waitFor(t, "run to kill it", func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	if got := c.cmd.ProcessState.ExitCode(); got != 128+9 {
		t.Errorf("exit status %d, want %d", got, 128+9)
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH} {
		t.Run(unix.SignalName(s), func(t *testing.T) {
			c := startContainer(t)
			name := strings.TrimPrefix(unix.SignalName(s), "SIG")
			c.sh(t, "trap 'echo got it' "+name)
			c.cmd.Process.Signal(s)
			waitFor(t, "the signal", func() bool { return c.sh(t, "true") == "got it\n" })
		})
	}
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	// As nohup(1) does.
	cmd := exec.Command("sh", "-c", `trap '' HUP; exec vprocfs run -- grep SigIgn /proc/self/status`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(string(out), "SigIgn:")), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	if hup := uint64(1) << (unix.SIGHUP - 1); ignored&hup == 0 {
		t.Errorf("the command ignores %#x, which has no SIGHUP", ignored)
	}
}

func TestInitReapsOrphans(t *testing.T) {
	if got := inContainer(t, nil, toolCommand(t, "orphans")...); got != "0\n" {
		t.Errorf("zombies left in the container: %s", got)
	}
}

func TestCommandInheritsWhatRunHas(t *testing.T) {
	cmd := exec.Command("vprocfs", "run", "--", "sh", "-c", `read x; echo "$x $HELLO $PWD"; echo err >&2`)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HELLO=hello")
	cmd.Stdin = strings.NewReader("input\n")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "input hello "+cmd.Dir+"\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got := stderr.String(); got != "err\n" {
		t.Errorf("stderr %q", got)
	}
}

func TestContainerIsAPidNamespaceOfItsOwn(t *testing.T) {
	out := inContainer(t, nil, "sh", "-c", "cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l; ls /proc/self/fd")
	f := strings.Fields(out)
	// Its init, sh, ls and wc.
	if n, err := strconv.Atoi(f[1]); f[0] != "vprocfs" || err != nil || n > 4 {
		t.Errorf("in the container: %q", out)
	}
	// None of the init's: it has none that any command of ours would not have.
	plain, err := exec.Command("ls", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range f[2:] {
		if !slices.Contains(strings.Fields(string(plain)), fd) {
			t.Errorf("descriptors of the command: %s, of one on the host: %s", f[2:], plain)
		}
	}
}

func TestLimitsAreSet(t *testing.T) {
	c := startContainer(t, "--memory", "100M", "--cpus", "0.5", "--cpuset", "0")
	if got := cgroupNumber(t, c.init, "memory", "memory.limit_in_bytes", "memory.max"); got != 100<<20 {
		t.Errorf("memory limit %d", got)
	}
	dir, v2 := cgroupDir(t, c.init, "cpu")
	file, want := "cpu.cfs_quota_us", "50000"
	if v2 {
		file, want = "cpu.max", "50000 100000"
	}
	if got := strings.TrimSpace(readFile(t, filepath.Join(dir, file))); got != want {
		t.Errorf("%s %q, want %q", file, got, want)
	}
	if got := c.sh(t, "grep Cpus_allowed_list /proc/self/status"); got != "Cpus_allowed_list:\t0\n" {
		t.Errorf("in the container: %s", got)
	}
}
