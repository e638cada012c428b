// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asLXCFS is the command line of a program lxcfs that is vprocfs.
func asLXCFS(args ...string) *exec.Cmd {
	cmd := exec.Command("vprocfs", args...)
	cmd.Args[0] = "/usr/bin/lxcfs"
	return cmd
}

// startLXCFS starts one that serves a directory of its own, with a pid file of its
// own.
func startLXCFS(t *testing.T, args ...string) *daemon {
	t.Helper()
	dir := t.TempDir()
	args = append([]string{"-p", filepath.Join(t.TempDir(), "pid")}, args...)
	return startServing(t, asLXCFS(append(args, dir)...), dir)
}

// startServing starts a daemon that serves dir and waits until it says so.
func startServing(t *testing.T, cmd *exec.Cmd, dir string) *daemon {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(cmd, stderr, dir)
	t.Cleanup(func() {
		killDaemon(cmd)
		unix.Unmount(dir, unix.MNT_DETACH) // an error says that nothing is left
	})
	if line := d.line(t); !strings.Contains(line, "msg=serving") {
		t.Fatalf("%s: %s", cmd, line)
	}
	return d
}

// pidFile is the file that startLXCFS has chosen.
func (d *daemon) pidFile() string { return d.cmd.Args[2] }

// stop ends the daemon by SIGTERM and returns the rest of its log.
func (d *daemon) stop(t *testing.T) string {
	t.Helper()
	d.cmd.Process.Signal(unix.SIGTERM)
	log, status := d.end(t)
	if status != 0 || isMounted(t, d.dir) {
		t.Errorf("exit status %d, still mounted: %t\n%s", status, isMounted(t, d.dir), log)
	}
	return log
}

func TestLXCFSIsFoundByItsType(t *testing.T) {
	for _, c := range []struct{ options, fsType, source string }{
		{"allow_other,nonempty,ro", "fuse.lxcfs", "lxcfs"},
		{"fsname=a", "fuse.lxcfs", "a"},
		{"fsname=a,subtype=b,entry_timeout=0.5", "fuse.b", "a"},
	} {
		d := startLXCFS(t, "-o", c.options)
		found := ""
		for line := range strings.Lines(readFile(t, "/proc/self/mounts")) {
			if f := strings.Fields(line); f[1] == d.dir {
				found = f[2] + " " + f[0]
			}
		}
		if want := c.fsType + " " + c.source; found != want {
			t.Errorf("-o %s: mounted as %q, want %q", c.options, found, want)
		}
		d.stop(t)
	}
}

func TestLXCFSShowsTheCPUsOfTheCpusetUnlessToldOtherwise(t *testing.T) {
	all := testCPUs(t)
	for _, c := range []struct {
		flags []string
		want  int
	}{
		{nil, len(all)},
		{[]string{"--enable-cfs"}, 1},
		{[]string{"-f", "-s", "-l", "-u", "--enable-pidfd", "--enable-psi-poll", "--enable-cgroup"}, len(all)},
	} {
		d := startLXCFS(t, c.flags...)
		out := inContainer(t, []string{"--mount", d.dir, "--cpus", "0.5"}, "cat", "/proc/stat", "/proc/meminfo")
		stat, info, _ := strings.Cut(out, "MemTotal:")
		if got := len(statCPUs(t, stat)); got != c.want {
			t.Errorf("%v: %d CPUs of %d with half a CPU of quota, want %d", c.flags, got, len(all), c.want)
		}
		if len(c.flags) > 1 {
			if m := meminfo(t, "MemTotal:"+info); m["SwapTotal"] != 0 || m["SwapFree"] != 0 {
				t.Errorf("-u: SwapTotal %d kB, SwapFree %d kB", m["SwapTotal"], m["SwapFree"])
			}
		}
		d.stop(t)
	}
}

// TestSIGUSR1LosesNothing: packages send it on reload.
func TestSIGUSR1LosesNothing(t *testing.T) {
	d := startLXCFS(t)
	c := startContainer(t, "--mount", d.dir, "--memory", "100M")
	total := func() (user, idle uint64) {
		f := strings.Fields(strings.SplitN(c.sh(t, "cat /proc/stat"), "\n", 2)[0])
		user, _ = strconv.ParseUint(f[1], 10, 64)
		idle, _ = strconv.ParseUint(f[4], 10, 64)
		return user, idle
	}
	c.sh(t, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
	user, idle := total()
	waitFor(t, "CPU time to be counted", func() bool { user, idle = total(); return user > 0 })
	for range 3 {
		d.cmd.Process.Signal(unix.SIGUSR1)
		for _, want := range []string{"msg=upgrading", "msg=upgraded"} {
			if line := d.line(t); !strings.Contains(line, want) {
				t.Fatalf("log: %s", line)
			}
		}
		u, i := total()
		if u < user || i < idle {
			t.Errorf("after a reload user time went from %d to %d and idle time from %d to %d ticks", user, u, idle, i)
		}
		user, idle = u, i
		if m := meminfo(t, c.sh(t, "cat /proc/meminfo")); m["MemTotal"] != 100<<10 {
			t.Errorf("after a reload MemTotal is %d kB", m["MemTotal"])
		}
	}
	if log := d.stop(t); !strings.Contains(log, "counts=") || strings.Contains(log, "meminfo/") || strings.Contains(log, "stat/") {
		t.Errorf("somebody got the host's file:\n%s", log)
	}
}

func TestSIGUSR2SwitchesToTheHostAndBack(t *testing.T) {
	d := startLXCFS(t)
	c := startContainer(t, "--mount", d.dir, "--memory", "100M")
	read := func() uint64 { return meminfo(t, c.sh(t, "cat /proc/meminfo"))["MemTotal"] }
	host := meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]
	for i, want := range []uint64{100 << 10, host, 100 << 10, host} {
		if i > 0 {
			d.cmd.Process.Signal(unix.SIGUSR2)
			if line := d.line(t); !strings.Contains(line, fmt.Sprintf(`msg="virtualisation switched" on=%t`, i%2 == 0)) {
				t.Fatalf("log: %s", line)
			}
		}
		if got := read(); got != want {
			t.Errorf("after %d signals MemTotal is %d kB, want %d kB", i, got, want)
		}
	}
	if log := d.stop(t); !strings.Contains(log, "meminfo/switched-off:2") {
		t.Errorf("not counted:\n%s", log)
	}
}

func TestASignalThatEndsLXCFSIsNoFailure(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		d := startLXCFS(t)
		d.cmd.Process.Signal(s)
		log, status := d.end(t)
		if status != 0 || isMounted(t, d.dir) {
			t.Errorf("%s: exit status %d, still mounted: %t\n%s", unix.SignalName(s), status, isMounted(t, d.dir), log)
		}
		if _, err := os.Lstat(d.pidFile()); !os.IsNotExist(err) {
			t.Errorf("%s: the pid file is left: %v", unix.SignalName(s), err)
		}
	}
}

func TestThePIDFileIsLockedAndKept(t *testing.T) {
	d := startLXCFS(t)
	path := d.pidFile()
	check := func(when string) {
		t.Helper()
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := strconv.Itoa(d.cmd.Process.Pid) + "\n"; readFile(t, path) != want || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %q, mode %o, want %q, mode 600", when, readFile(t, path), st.Mode().Perm(), want)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		l := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil || l.Type != unix.F_WRLCK || int(l.Pid) != d.cmd.Process.Pid {
			t.Errorf("%s: lock %+v, %v, want the daemon's", when, l, err)
		}
	}
	check("at first")
	other := t.TempDir()
	cmd := asLXCFS("--pidfile="+path, other)
	out, err := cmd.CombinedOutput()
	want := fmt.Sprintf("vprocfs: lxcfs: pid file %s: another instance is running, with pid %d\n", path, d.cmd.Process.Pid)
	if err == nil || cmd.ProcessState.ExitCode() != 1 || string(out) != want {
		t.Errorf("a second instance: %v: %s", err, out)
	}
	if isMounted(t, other) {
		t.Error("a second instance has mounted")
	}
	check("after a second instance")
	d.stop(t)
}

func TestAStalePIDFileIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(path, []byte("99999999999999\nand more\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := startServing(t, asLXCFS("-p", path, dir), dir)
	st, err := os.Stat(path)
	if want := strconv.Itoa(d.cmd.Process.Pid) + "\n"; err != nil || readFile(t, path) != want || st.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, want %q, mode 600", readFile(t, path), st.Mode(), want)
	}
	killDaemon(d.cmd)
	if readFile(t, path) == "" {
		t.Fatal("a killed daemon leaves no pid file: nothing to take over")
	}
	startServing(t, asLXCFS("-p", path, dir), dir).stop(t)
}

func TestAnothersPIDFileIsNotRemoved(t *testing.T) {
	d := startLXCFS(t)
	// LXCFS removes it where it finds it locked; the next one makes it anew.
	if err := os.Remove(d.pidFile()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.pidFile(), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.stop(t)
	if got := readFile(t, d.pidFile()); got != "1\n" {
		t.Errorf("another's pid file says %q now", got)
	}
}

func TestOneOfManyInstancesGetsThePIDFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	base := t.TempDir()
	const n = 8
	type result struct {
		cmd *exec.Cmd
		log string
	}
	results := make(chan result, n)
	for i := range n {
		dir := filepath.Join(base, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		cmd := asLXCFS("-p", path, dir)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { killDaemon(cmd) })
		go func() {
			log := bufio.NewReader(stderr)
			line, _ := log.ReadString('\n')
			results <- result{cmd, line}
			_, _ = io.Copy(io.Discard, log)
		}()
	}
	serving := 0
	for range n {
		r := <-results
		switch {
		case strings.Contains(r.log, "msg=serving"):
			serving++
			if got, want := readFile(t, path), strconv.Itoa(r.cmd.Process.Pid)+"\n"; got != want {
				t.Errorf("the pid file says %q, and %q serves", got, want)
			}
		case !strings.Contains(r.log, "another instance is running"):
			t.Errorf("log: %s", r.log)
		}
	}
	if serving != 1 {
		t.Errorf("%d of %d instances serve", serving, n)
	}
}
