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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// become makes this process, which has namespaces of its own, the init of a container whose
// root is at a directory: it does what runc does, mount by mount. Then it waits for the end of
// its input.
func become(root string) error {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadByte(); err != nil { // it is in its cgroup
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	at := func(path string) string { return filepath.Join(root, path) }
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"sysfs", "sys", "sysfs", unix.MS_RDONLY, ""},
		{"tmpfs", "sys/fs/cgroup", "tmpfs", 0, ""},
		{"tmpfs", "tmp", "tmpfs", 0, ""},
	} {
		if err := unix.Mount(m.source, at(m.target), m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for _, dir := range []string{"dev/pts", "dev/shm", "dev/mqueue"} {
		if err := os.Mkdir(at(dir), 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", at(dir), "tmpfs", 0, ""); err != nil {
			return err
		}
	}
	if err := unix.PivotRoot(root, at("tmp")); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/tmp", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := unix.Unmount("/tmp", unix.MNT_DETACH); err != nil {
		return err
	}
	for _, path := range []string{"/proc/acpi", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sys"} {
		err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			err = unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
		if err != nil && err != unix.ENOENT {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, in)
	return err
}

// bareContainer is a process that has become a container.
type bareContainer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// startBare starts one in a cgroup.
func startBare(t testing.TB, g *group, root string) *bareContainer {
	t.Helper()
	args := toolCommand(t, "become", root)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &bareContainer{cmd, in}
	t.Cleanup(c.stop)
	for _, dir := range g.join {
		write(t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid))
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the container says %q, %v", line, err)
	}
	return c
}

func (c *bareContainer) stop() {
	c.in.Close()
	_ = c.cmd.Wait()
}

// cpuTime returns the CPU time of the processes that are or were in a cgroup.
func (g *group) cpuTime(t testing.TB) time.Duration {
	t.Helper()
	dir := g.dirs["cpuacct"]
	if !g.v2["cpuacct"] {
		ns, err := strconv.ParseInt(strings.TrimSpace(readFile(t, filepath.Join(dir, "cpuacct.usage"))), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(ns)
	}
	var us int64
	if _, err := fmt.Sscanf(readFile(t, filepath.Join(dir, "cpu.stat")), "usage_usec %d", &us); err != nil {
		t.Fatal(err)
	}
	return time.Duration(us) * time.Microsecond
}

// BenchmarkAStartUnderTheWatch reports the CPU time that the start of a container costs the
// watcher and its helper, each in a cgroup of its own. Run it with -benchtime 100x.
func BenchmarkAStartUnderTheWatch(b *testing.B) {
	all := newGroup(b)
	watchers, helpers := all.child(b, "watcher"), all.child(b, "helper")
	first, containers := all.child(b, "first"), all.child(b, "containers")
	d := startAttaching(b, "vprocfs")
	p := &parts{b, d}
	root := busyboxRoot(b)
	startBare(b, first, root)
	d.waitFor(b, 1, "msg=attached") // with the first search
	for g, pids := range map[*group][]int{watchers: p.watchers(), helpers: p.attachers()} {
		for _, dir := range g.join {
			for _, pid := range pids {
				write(b, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
			}
		}
	}
	watcher, helper := watchers.cpuTime(b), helpers.cpuTime(b)
	var last *bareContainer
	for range b.N {
		last = startBare(b, containers, root)
	}
	waitFor(b, "the last container to be attached", func() bool { return viewMounts(last.cmd.Process.Pid) > 5 })
	sleep(200) // what comes after an attach counts too
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
	b.ReportMetric(each(watchers.cpuTime(b)-watcher), "watcher-us/start")
	b.ReportMetric(each(helpers.cpuTime(b)-helper), "helper-us/start")
}
