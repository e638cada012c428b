// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startPatience is how long a container may take to start while parts of the daemon are
// killed.
const startPatience = 30 * time.Second

// sleeper is a container of runc whose program sleeps.
type sleeper struct {
	id   string
	init int
}

// sleepers makes bundles, and starts containers from any goroutine.
type sleepers struct {
	runc   []string // command line with the directory of states
	name   string
	bundle string
	dir    string // of the pid files
}

func newSleepers(t *testing.T) *sleepers {
	t.Helper()
	s := &sleepers{name: fmt.Sprintf("vprocfs-sleeper-%d", os.Getpid()), dir: t.TempDir()}
	s.runc = ociCommand(t, "runc", t.TempDir()).Args
	s.bundle = writeBundle(t, "", s.name, "")
	b := readConfig(t, s.bundle)
	b.Process.Args = []string{"/bin/busybox", "sleep", "1000"}
	writeConfig(t, s.bundle, b)
	return s
}

// command runs runc to its end.
func (s *sleepers) command(ctx context.Context, args ...string) error {
	var stderr bytes.Buffer
	args = append(s.runc[1:len(s.runc):len(s.runc)], args...)
	cmd := exec.CommandContext(ctx, s.runc[0], args...)
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second // the container has its stderr too
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("hangs: %w", err)
	}
	if err != nil {
		return fmt.Errorf("runc %s: %w: %s", args[len(args)-1], err, &stderr)
	}
	return nil
}

// start starts a container in two steps, as all do who call an OCI runtime.
func (s *sleepers) start(n int) (c sleeper, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	c.id = s.name + "-" + strconv.Itoa(n)
	pidFile := filepath.Join(s.dir, c.id)
	// Files for its output: the container would keep a pipe open.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return c, err
	}
	defer null.Close()
	args := append(s.runc[1:len(s.runc):len(s.runc)], "create", "--pid-file", pidFile, "--bundle", s.bundle, c.id)
	create := exec.CommandContext(ctx, s.runc[0], args...)
	create.Stdin, create.Stdout, create.Stderr = null, null, null
	if err := create.Run(); err != nil {
		return c, fmt.Errorf("create a container: %w, %w", err, ctx.Err())
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return c, err
	}
	if c.init, err = strconv.Atoi(string(text)); err != nil {
		return c, err
	}
	return c, s.command(ctx, "start", c.id)
}

// remove ends a container.
func (s *sleepers) remove(c sleeper) error {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	return s.command(ctx, "delete", "--force", c.id)
}

// viewMounts counts the files of vprocfs below the /proc of a process.
func viewMounts(pid int) (n int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid)) // an error says that it has ended
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(" /proc/")) && bytes.Contains(line, []byte(" - fuse.vprocfs ")) {
			n++
		}
	}
	return n
}

// shownFiles returns how many entries of /proc a daemon shows in a container.
func shownFiles(t testing.TB, dir string) (n int) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := os.Lstat("/proc/" + e.Name()); err == nil {
			n++
		}
	}
	return n
}

// parts finds the processes of a daemon.
type parts struct {
	t testing.TB
	d *watcherLog
}

var servingLine = regexp.MustCompile(`msg=serving .*\bpid=(\d+)`)

// holder returns the holder that has said last that it serves.
func (p *parts) holder() int {
	all := servingLine.FindAllStringSubmatch(p.d.String(), -1)
	if len(all) == 0 {
		return p.d.cmd.Process.Pid // startAttaching has taken its line
	}
	pid, err := strconv.Atoi(all[len(all)-1][1])
	if err != nil {
		p.t.Fatal(err)
	}
	return pid
}

// watchers returns the watchers that live.
func (p *parts) watchers() (pids []int) {
	for _, pid := range children(p.holder()) {
		if isWatcher(p.t, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// attachers returns the helpers of the watchers.
func (p *parts) attachers() (pids []int) {
	for _, pid := range p.watchers() {
		pids = append(pids, children(pid)...)
	}
	return pids
}

// workers returns the children of the holder that are no watchers, and the worker that has
// started the holder in the place of one that had died.
func (p *parts) workers() (pids []int) {
	holder := p.holder()
	for _, pid := range children(holder) {
		if !isWatcher(p.t, pid) {
			pids = append(pids, pid)
		}
	}
	if f := statFields(fmt.Sprintf("/proc/%d/stat", holder)); len(f) > 4 && holder != p.d.cmd.Process.Pid && f[4] != "1" {
		if pid, err := strconv.Atoi(f[4]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// kill kills the processes that find returns, as soon as there are any.
func (p *parts) kill(find func() []int) {
	p.t.Helper()
	for end := time.Now().Add(startPatience); ; sleep(10) {
		pids := find()
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // an error says that it has ended by itself
		}
		if len(pids) > 0 {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("no process to kill in %s", startPatience)
		}
	}
}

// end kills what is left of the daemon: the holder and its children replace each other.
func (p *parts) end() {
	holder := p.holder()
	_ = unix.Kill(holder, unix.SIGSTOP)
	for _, pid := range append(p.workers(), p.watchers()...) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = unix.Kill(holder, unix.SIGKILL)
}

// TestStartsGoOnWhilePartsOfTheDaemonDie: containers start while the worker, the helper of
// the watcher, the watcher and the holder are killed, and during an upgrade. None fails or
// hangs in its start, and all have all the files in the end.
func TestStartsGoOnWhilePartsOfTheDaemonDie(t *testing.T) {
	d := startAttaching(t, program(t))
	p := &parts{t, d}
	t.Cleanup(func() {
		if t.Failed() {
			p.end()
		}
	})
	s := newSleepers(t)
	var running []sleeper
	t.Cleanup(func() {
		for _, c := range running {
			if err := s.remove(c); err != nil {
				t.Error(err)
			}
		}
	})
	first, err := s.start(0)
	if err != nil {
		t.Fatal(err)
	}
	running = append(running, first)
	whole := shownFiles(t, d.dir)
	type started struct {
		sleeper
		err error
	}
	const each = 3 // containers that start at a time
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"the helper is killed", func() { p.kill(p.attachers) }},
		{"the watcher is killed", func() { p.kill(p.watchers) }},
		{"the worker is killed", func() { p.kill(p.workers) }},
		{"an upgrade", func() {
			if out, stderr, status := vprocfs(t, "upgrade", d.dir); status != 0 {
				t.Errorf("exit status %d: %s%s", status, out, stderr)
			}
		}},
		{"the holder is killed", func() { p.kill(func() []int { return []int{p.holder()} }) }},
		{"watcher and worker are killed", func() { p.kill(p.watchers); p.kill(p.workers) }},
	} {
		results := make(chan started, each)
		for i := range each {
			n := len(running) + i
			go func() {
				c, err := s.start(n)
				results <- started{c, err}
			}()
		}
		wait := rand.N(400 * time.Millisecond) // a start takes about that long
		t.Logf("%s after %s", step.what, wait)
		time.Sleep(wait)
		serving := strings.Count(d.String(), "msg=serving")
		step.do()
		for range each {
			r := <-results
			if r.init != 0 {
				running = append(running, r.sleeper)
			}
			if r.err != nil {
				t.Fatalf("%s: %v", step.what, r.err)
			}
		}
		if strings.Contains(step.what, "holder") {
			d.waitFor(t, serving+1, "msg=serving")
		}
	}
	for _, c := range running {
		for end := time.Now().Add(startPatience); viewMounts(c.init) != whole; sleep(10) {
			if time.Now().After(end) {
				t.Fatalf("container %s has %d files of %d", c.id, viewMounts(c.init), whole)
			}
		}
		if _, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/uptime", c.init)); err != nil {
			t.Errorf("%s: %v", c.id, err)
		}
	}
	holder, watchers := p.holder(), p.watchers()
	if err := unix.Kill(holder, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the mount to go", func() bool { return !isMounted(t, d.dir) })
	for _, pid := range watchers {
		waitFor(t, "the watcher to end", func() bool { return !isWatcher(t, pid) })
	}
	if strings.Contains(d.String(), "level=ERROR") {
		t.Error("the daemon has logged an error")
	}
}
