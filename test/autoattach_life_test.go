package test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestContainersInContainersAreAttached: a runtime that runs in a container starts
// another.
func TestContainersInContainersAreAttached(t *testing.T) {
	startAttaching(t, "vprocfs")
	need(t, "runc", "runc")
	inner := writeBundle(t, "", fmt.Sprintf("vprocfs-inner-%d", os.Getpid()), "")
	b := readConfig(t, inner)
	b.Process.Args = []string{"/bin/busybox", "sh", "-c", "echo ready; exec busybox sh"}
	writeConfig(t, inner, b)
	outer := writeBundle(t, "", fmt.Sprintf("vprocfs-outer-%d", os.Getpid()), "")
	b = readConfig(t, outer)
	// The root of the outer one is that of the host, which has runc.
	b.Root.Path = hostRoot(t)
	b.Mounts = append(b.Mounts, bindMount{"/sys/fs/cgroup", "bind", "/sys/fs/cgroup", []string{"rbind", "rw"}})
	b.Process.Env = []string{"PATH=" + os.Getenv("PATH")}
	b.Process.Args = []string{"runc", "--root", t.TempDir(), "run", "--bundle", inner, "inner"}
	b.Process.Capabilities = make(map[string][]string)
	for _, set := range []string{"bounding", "effective", "permitted"} {
		b.Process.Capabilities[set] = []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_SYS_CHROOT", "CAP_SETPCAP", "CAP_SETUID", "CAP_SETGID"}
	}
	writeConfig(t, outer, b)
	c := startSubject(t, exec.Command("runc", "--root", t.TempDir(), "run", "--bundle", outer, fmt.Sprintf("outer-%d", os.Getpid())), "ready")
	// What it sees depends on where the inner runc may set limits.
	waitFor(t, "the inner container to have the files", func() bool {
		return strings.Contains(c.sh(t, "busybox cat /proc/mounts"), " /proc/meminfo fuse.vprocfs ")
	})
}

// hostRoot returns a directory on which the root file system of the host is mounted, as
// pivot_root(2) wants it.
func hostRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("/", dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestRestartedContainerIsAttachedAgain: its cgroup, its name and its root are the same,
// and its mount namespace may have the inode number of the former one.
func TestRestartedContainerIsAttachedAgain(t *testing.T) {
	startAttaching(t, "vprocfs")
	for _, runtime := range ociRuntimes {
		t.Run(runtime, func(t *testing.T) {
			need(t, runtime, runtime)
			id := fmt.Sprintf("vprocfs-again-%s-%d", runtime, os.Getpid())
			at, state := writeBundle(t, "", id, ""), t.TempDir()
			b := readConfig(t, at)
			b.Process.Args = []string{"/bin/busybox", "sh", "-c", "echo ready; exec busybox sh"}
			writeConfig(t, at, b)
			for range 5 {
				c := startSubject(t, ociCommand(t, runtime, state, "run", "--bundle", at, id), "ready")
				waitForView(t, c)
				c.in.Close()
				c.cmd.Wait()
			}
		})
	}
}

// TestStartsGoOnWhileTheDaemonDies: containers start while the watcher, its helper, the
// worker and the holder are killed. None fails to start, and what starts while nobody
// watches is attached when somebody does.
func TestStartsGoOnWhileTheDaemonDies(t *testing.T) {
	d := startAttaching(t, "vprocfs")
	var running []*container
	start := func() {
		t.Helper()
		for range 2 {
			running = append(running, runtimeContainer(t, "runc", ""))
		}
	}
	kill := func(what string, pids ...int) {
		t.Helper()
		t.Log("without the", what)
		if len(pids) == 0 {
			t.Fatalf("there is no %s", what)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		start()
	}
	holder := d.cmd.Process.Pid
	watcher := watchersOf(t, holder)
	start()
	for _, c := range running {
		waitForView(t, c) // so that there is a helper
	}
	kill("helper of the watcher", children(watcher[0])...)
	kill("watcher", watcher...)
	d.waitFor(t, 2, "watching for containers that start")
	var workers []int
	for _, pid := range children(holder) {
		if !isWatcher(t, pid) {
			workers = append(workers, pid)
		}
	}
	kill("worker", workers...)
	for _, c := range running {
		waitForView(t, c)
	}
	kill("holder", holder)
	d.waitFor(t, 2, "msg=serving")
	d.waitFor(t, 3, "watching for containers that start")
	start()
	for _, c := range running {
		waitForView(t, c)
	}
	pids := regexp.MustCompile(`msg=serving .*pid=(\d+)`).FindAllStringSubmatch(d.String(), -1)
	last, err := strconv.Atoi(pids[len(pids)-1][1])
	if err != nil || last == holder {
		t.Fatalf("holder %d, was %d, %v", last, holder, err)
	}
	watcher = watchersOf(t, last)
	if err := unix.Kill(last, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the mount to go", func() bool { return !isMounted(t, d.dir) })
	for _, pid := range watcher {
		waitFor(t, "the watcher to end", func() bool { return unix.Kill(pid, 0) != nil || !isWatcher(t, pid) })
	}
	if strings.Contains(d.String(), "level=ERROR") {
		t.Errorf("the daemon has errors:\n%s", d.String())
	}
}

// TestViewOffWinsOverTheWatch: the container is attached, and reads the kernel's files.
func TestViewOffWinsOverTheWatch(t *testing.T) {
	startAttaching(t, "vprocfs")
	c := runtimeContainer(t, "runc", "")
	waitForView(t, c)
	policy(t, "set", c, "view=off")
	wantHost(t, c)
	policy(t, "unset", c, "view")
	wantView(t, c)
}
