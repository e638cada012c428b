// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// lxcHook is what LXC runs for each container it starts where LXCFS is installed
// (lxc.hook.mount in common.conf.d/00-lxcfs.conf); Debian's package has it.
const lxcHook = "/usr/share/lxcfs/lxc.mount.hook"

// lxcMount is where LXCFS's hook, Incus and published command lines look for it.
const lxcMount = "/var/lib/lxcfs"

// startPrivately starts an lxcfs on lxcMount in a mount namespace of its own, so
// that the machine's, if it has one, is not touched. Others enter by its pid.
func startPrivately(t *testing.T, options ...string) *daemon {
	t.Helper()
	self, err := exec.LookPath("vprocfs")
	if err != nil {
		t.Fatal(err)
	}
	script := "mount -t tmpfs none /var/lib && mkdir " + lxcMount + " && exec " + self + ` lxcfs "$@"`
	args := append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "lxcfs",
		"-p", filepath.Join(t.TempDir(), "pid")}, options...)
	return startServing(t, exec.Command("unshare", append(args, lxcMount)...), lxcMount)
}

// lxcContainer makes a command that runs a script as an LXC container's start
// would: in the daemon's mounts, with a pid and a mount namespace of its own, and
// with a root directory with procfs and sysfs in it, whose path the hook is told.
func lxcContainer(t *testing.T, d *daemon, g *group, root, script string) *exec.Cmd {
	t.Helper()
	prepare := fmt.Sprintf(`
		set -e
		mkdir -p %[1]s/proc %[1]s/sys %[1]s/dev
		mount --bind %[1]s %[1]s
		mount -t proc proc %[1]s/proc
		mount --rbind -o ro /sys %[1]s/sys
		export LXC_ROOTFS_MOUNT=%[1]s LXC_CGNS_AWARE=1
		`, root)
	return exec.Command("nsenter", "--mount=/proc/"+strconv.Itoa(d.cmd.Process.Pid)+"/ns/mnt",
		"sh", "-c", g.enter()+` && exec unshare --pid --fork --mount --propagation private sh -c "$0"`, prepare+script)
}

// ownHook is the hook of the package vprocfs-lxcfs.
const ownHook = "../deploy/packages/lxcfs/lxc.mount.hook"

func TestLXCsOwnHookBindsTheWholeTree(t *testing.T) {
	own, err := filepath.Abs(ownHook)
	if err != nil {
		t.Fatal(err)
	}
	for name, hook := range map[string]string{"of lxcfs": lxcHook, "of vprocfs-lxcfs": own} {
		t.Run(name, func(t *testing.T) { bindsTheWholeTree(t, hook) })
	}
}

// TestOwnHookKeepsNoContainerFromStarting: a daemon that is dead, and one that hangs.
func TestOwnHookKeepsNoContainerFromStarting(t *testing.T) {
	own, err := filepath.Abs(ownHook)
	if err != nil {
		t.Fatal(err)
	}
	for name, fail := range map[string]func(d *daemon){
		"dead":    func(d *daemon) { killDaemon(d.cmd) },
		"stopped": func(d *daemon) { stopWholly(t, d) },
	} {
		t.Run(name, func(t *testing.T) {
			d := startPrivately(t)
			g := newGroup(t)
			g.limitMemory(t, 64)
			// Of its own mount namespace, which ends with the daemon otherwise.
			cmd := lxcContainer(t, d, g, t.TempDir(), `read _; sh -e `+own+` 2>&1; grep fuse /proc/self/mountinfo | grep "$LXC_ROOTFS_MOUNT" || echo none`)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the container", func() bool { return len(children(cmd.Process.Pid)) > 0 })
			fail(d)
			if _, err := in.Write([]byte("\n")); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil || out.String() != "no daemon serves "+lxcMount+": the container starts with the kernel's files\nnone\n" {
				t.Errorf("%v:\n%s", err, &out)
			}
		})
	}
}

// stopWholly stops a daemon and its workers until the test ends.
func stopWholly(t *testing.T, d *daemon) {
	t.Helper()
	pids := append([]int{d.cmd.Process.Pid}, children(d.cmd.Process.Pid)...)
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGCONT)
		}
	})
}

// bindsTheWholeTree runs a hook as LXC does.
func bindsTheWholeTree(t *testing.T, hook string) {
	t.Helper()
	d := startPrivately(t)
	g := newGroup(t)
	g.limitMemory(t, 64)
	root := t.TempDir()
	out, err := lxcContainer(t, d, g, root, `
		ls /var/lib/lxcfs/proc
		echo :files:
		sh -e `+hook+`
		cat /proc/self/mountinfo
		echo :mounts:
		cat `+root+`/proc/meminfo
		echo :meminfo:
		cat `+root+`/proc/uptime`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files, rest, _ := strings.Cut(string(out), ":files:\n")
	mounts, rest, _ := strings.Cut(rest, ":mounts:\n")
	info, uptime, _ := strings.Cut(rest, ":meminfo:\n")

	bound := map[string]string{} // file system type by mount point
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		bound[strings.Fields(before)[4]] = strings.Fields(after)[0]
	}
	names := strings.Fields(files)
	if len(names) < 7 {
		t.Fatalf("the tree has %q", names)
	}
	for _, name := range names {
		path := filepath.Join(root, "proc", name)
		if _, err := os.Stat("/proc/" + name); err != nil {
			continue // this kernel has no such file, and the hook leaves it out
		}
		if !strings.HasPrefix(bound[path], "fuse.") {
			t.Errorf("the hook has not bound %s: %q is there", path, bound[path])
		}
	}
	if m := meminfo(t, info); m["MemTotal"] != 64<<10 {
		t.Errorf("MemTotal %d kB in a container of 64 MiB", m["MemTotal"])
	}
	age, err := strconv.ParseFloat(strings.Fields(uptime)[0], 64)
	if host := boottime(t); err != nil || age > host/2 && age > patience.Seconds() {
		t.Errorf("the container is %s s old, the host %.0f s", uptime, host)
	}
}

// TestIncussCommandLine: with instances.lxcfs.per_instance Incus runs the lxcfs that
// is in PATH for each container, with these options and those of LXCFS_OPTS.
func TestIncussCommandLine(t *testing.T) {
	self, err := exec.LookPath("vprocfs")
	if err != nil {
		t.Fatal(err)
	}
	bin, runtime, dir := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "lxcfs")); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(runtime, "instance.pid")
	cmd := exec.Command("sh", "-c", "PATH="+bin+":$PATH; exec lxcfs -f -p "+pidFile+" --runtime-dir "+runtime+" $LXCFS_OPTS "+dir)
	cmd.Env = append(os.Environ(), "LXCFS_OPTS=-l -u --enable-cfs --enable-pidfd")
	d := startServing(t, cmd, dir)
	if got, want := readFile(t, pidFile), strconv.Itoa(cmd.Process.Pid)+"\n"; got != want {
		t.Errorf("the pid file says %q, want %q", got, want)
	}
	m := meminfo(t, inContainer(t, []string{"--mount", dir, "--memory", "64M"}, "cat", "/proc/meminfo"))
	if m["MemTotal"] != 64<<10 || m["SwapTotal"] != 0 {
		t.Errorf("MemTotal %d kB, SwapTotal %d kB", m["MemTotal"], m["SwapTotal"])
	}
	cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 {
		t.Errorf("exit status %d\n%s", status, log)
	}
	if left, err := os.ReadDir(runtime); err != nil || len(left) > 0 {
		t.Errorf("left in the runtime directory: %v, %v", left, err)
	}
}
