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
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watcherLog is the log of a daemon that attaches containers.
type watcherLog struct {
	*daemon
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *watcherLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *watcherLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startAttaching starts a binary as a daemon that attaches all containers, and waits
// until it watches.
func startAttaching(t testing.TB, binary string, flags ...string) *watcherLog {
	t.Helper()
	return startAttachingAt(t, t.TempDir(), binary, flags...)
}

// startAttachingAt is startAttaching for the mount point dir.
func startAttachingAt(t testing.TB, dir, binary string, flags ...string) *watcherLog {
	t.Helper()
	args := slices.Concat([]string{"serve", "--attach", "all", "--log-level", "debug"}, flags, []string{dir})
	l := &watcherLog{daemon: startDaemonCommand(t, dir, exec.Command(binary, args...), nil)}
	l.until(t, "msg=serving")
	go l.log.WriteTo(l)
	l.waitFor(t, 1, "watching for containers that start")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.String())
		}
	})
	return l
}

// waitFor waits until the log has n lines with the text.
func (l *watcherLog) waitFor(t testing.TB, n int, text string) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d lines with %q", n, text), func() bool { return strings.Count(l.String(), text) >= n })
}

// firstRead is what the program of a container reads before anything else happens.
var firstRead = []string{"/bin/busybox", "cat", "/proc/meminfo"}

// startsPerRuntime returns how many containers of a runtime must be attached in time.
func startsPerRuntime() int {
	if os.Getenv(binaryEnv) != "" {
		return 3 // in a guest, where a start takes seconds
	}
	return 20
}

// TestFirstReadOfAProgramSeesTheContainer: nobody has configured anything, and the
// runtimes run their programs as soon as they can.
func TestFirstReadOfAProgramSeesTheContainer(t *testing.T) {
	d := startAttaching(t, "vprocfs")
	judge := func(t *testing.T, start func(i int) string) {
		host, starts := 0, startsPerRuntime()
		for i := range starts {
			if !ownMemory(t, start(i)) {
				host++
			}
		}
		t.Logf("%d of %d programs saw the host", host, starts)
		// On a machine without CPU time to spare, the watcher may be late now and then.
		if host*10 > starts {
			t.Error("that is more than a tenth")
		}
	}
	for _, runtime := range ociRuntimes {
		t.Run(runtime, func(t *testing.T) {
			start := twoSteps(t, runtime)
			judge(t, func(int) string { return start() })
		})
	}
	t.Run("podman", func(t *testing.T) {
		p := newPodman(t)
		judge(t, func(int) string {
			out, err := p.run(nil, nil, firstRead...).Output()
			if err != nil {
				t.Fatal(failure(err))
			}
			return string(out)
		})
	})
	if strings.Contains(d.String(), "is not attached") {
		t.Errorf("the daemon warns:\n%s", d.String())
	}
}

// twoSteps returns a function that starts a container as all do who call an OCI runtime:
// first create, then start. It returns what the program has read first.
func twoSteps(t *testing.T, runtime string) (start func() string) {
	t.Helper()
	name := fmt.Sprintf("vprocfs-watch-%s-%d", runtime, os.Getpid())
	at := writeBundle(t, "", name, "")
	b := readConfig(t, at)
	b.Process.Args = firstRead
	writeConfig(t, at, b)
	state := t.TempDir()
	n := 0
	return func() string {
		n++
		id := name + "-" + strconv.Itoa(n)
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		create := ociCommand(t, runtime, state, "create", "--bundle", at, id)
		create.Stdout = out
		if err := create.Run(); err != nil {
			t.Fatal(failure(err))
		}
		if out, err := ociCommand(t, runtime, state, "start", id).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		waitFor(t, "the program", func() bool {
			st, err := out.Stat()
			return err == nil && st.Size() > 0
		})
		sleep(20) // it writes once
		text := readFile(t, out.Name())
		if out, err := ociCommand(t, runtime, state, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return text
	}
}

// waitForView waits until a container sees its own memory.
func waitForView(t *testing.T, c *container) {
	t.Helper()
	waitFor(t, "the container to see itself", func() bool { return ownMemory(t, c.sh(t, "busybox cat /proc/meminfo")) })
}

// ownMemory reports whether a meminfo is that of a container of 64 MiB.
func ownMemory(t *testing.T, text string) bool {
	t.Helper()
	return meminfo(t, text)["MemTotal"] == 64<<10
}

// TestContainersThatRunAreAttachedToo, when the daemon starts.
func TestContainersThatRunAreAttachedToo(t *testing.T) {
	before := runtimeContainer(t, "runc", "")
	wantHost(t, before)
	startAttaching(t, "vprocfs")
	waitForView(t, before)
	wantView(t, before)
}

// TestSandboxesAreNotAttached: they stay in the cgroup of who starts them.
func TestSandboxesAreNotAttached(t *testing.T) {
	runs := plainContainer(t, "true")
	d := startAttaching(t, "vprocfs")
	starts := plainContainer(t, "true")
	d.waitFor(t, 1, "searched for containers")
	time.Sleep(2 * time.Second) // more than a container takes
	wantHost(t, runs)
	wantHost(t, starts)
}

func TestPatternsSayWhatIsAttached(t *testing.T) {
	first := plainContainer(t, "true")
	pattern := filepath.Join(filepath.Dir(memoryGroup(t, first)), "vprocfs-test-*")
	startAttaching(t, "vprocfs", "--attach-cgroup", pattern, "--attach-not-cgroup", "/vprocfs-attach-runc-*")
	waitForView(t, first) // unshare(1) stays in the cgroup of its parent, too
	excluded := runtimeContainer(t, "runc", "")
	time.Sleep(2 * time.Second)
	wantHost(t, excluded)
}

// memoryGroup returns the path of the cgroup of a container that limits its memory.
func memoryGroup(t *testing.T, c *container) string {
	t.Helper()
	dir, v2 := cgroupDir(t, c.init, "memory")
	root := cgroupMount(t, "cgroup", "memory")
	if v2 {
		root = cgroupMount(t, "cgroup2", "")
	}
	return strings.TrimPrefix(dir, root)
}

// TestWatchingGoesOn over the death of a worker, of the watcher and of the holder, and
// over an upgrade; and it leaves no process behind.
func TestWatchingGoesOn(t *testing.T) {
	path := program(t)
	d := startAttaching(t, path)
	check := func(what string) {
		t.Helper()
		t.Log(what)
		c := runtimeContainer(t, "runc", "")
		waitForView(t, c)
		c.in.Close()
		c.cmd.Wait()
	}
	holder := d.cmd.Process.Pid
	kill := func(of func(pid int) bool) {
		t.Helper()
		killed := false
		for _, pid := range children(holder) {
			if of(pid) {
				killed = true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !killed {
			t.Fatalf("no such child of %d", holder)
		}
	}
	check("at first")
	kill(func(pid int) bool { return !isWatcher(t, pid) })
	check("after the death of the worker")
	kill(func(pid int) bool { return isWatcher(t, pid) })
	check("after the death of the watcher")
	d.waitFor(t, 2, "watching for containers that start")
	if out, stderr, status := vprocfs(t, "upgrade", d.dir); status != 0 {
		t.Fatalf("exit status %d: %s%s", status, out, stderr)
	}
	check("after an upgrade")
	d.waitFor(t, 3, "watching for containers that start")
	waitFor(t, "the former watcher to end", func() bool { return len(watchersOf(t, holder)) == 1 })
	watchers := watchersOf(t, holder)
	d.cmd.Process.Signal(unix.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		t.Error(err)
	}
	for _, pid := range watchers {
		if unix.Kill(pid, 0) == nil && isWatcher(t, pid) {
			t.Errorf("the watcher %d is left", pid)
		}
	}
}

// watchersOf returns the watchers among the children of a holder, zombies included.
func watchersOf(t testing.TB, holder int) []int {
	t.Helper()
	var pids []int
	for _, pid := range children(holder) {
		f := statFields(fmt.Sprintf("/proc/%d/stat", pid))
		if isWatcher(t, pid) || len(f) > 3 && f[3] == "Z" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isWatcher reports whether a process is the watcher of a holder.
func isWatcher(t testing.TB, pid int) bool {
	t.Helper()
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // an error says that it has ended
	return bytes.Contains(env, []byte("VPROCFS_WATCHER="))
}

// TestContainerThatHangsDelaysNoOther: the daemon finds a container with 24 mount
// namespaces whose /proc does not answer. Those that start meanwhile are attached.
func TestContainerThatHangsDelaysNoOther(t *testing.T) {
	hostile := plainContainer(t, "", "--user", "--map-root-user")
	ready := t.TempDir() + "/ready"
	hostile.sh(t, fmt.Sprintf("%s >%s </dev/null & until grep -q ready %[2]s; do sleep 0.1; done",
		strings.Join(toolCommand(t, "hung", "24"), " "), ready))
	d := startAttaching(t, "vprocfs", "--attach-cgroup", memoryGroup(t, hostile))
	for range 3 {
		c := runtimeContainer(t, "runc", "")
		waitForView(t, c)
		c.in.Close()
		c.cmd.Wait()
	}
	d.waitFor(t, 1, "hangs") // it was tried
}
