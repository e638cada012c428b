// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkBareSystemCalls is the floor of an attach: the system calls without which no 13
// files get into a container, on a thread that is there already. It reports the CPU time
// of the thread. For each file: clone it, make the clone private, open its place, move the
// clone there, and close both.
func BenchmarkBareSystemCalls(b *testing.B) {
	names := []string{"cgroups", "cpuinfo", "diskstats", "loadavg", "meminfo", "version", "slabinfo", "stat", "swaps", "uptime", "vmstat", "filesystems", "devices"}
	cmd := exec.Command("sh", "-euc", "mount -t proc proc /proc; echo ready; read line")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 16)); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := bareAttaches(b, cmd.Process.Pid, names); err != nil {
			b.Error(err)
		}
	}()
	<-done
}

// bareAttaches attaches files of a tmpfs in process pid, b.N times.
func bareAttaches(b *testing.B, pid int, names []string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	view := b.TempDir()
	if err := unix.Mount("tmpfs", view, "tmpfs", 0, ""); err != nil {
		return err
	}
	var paths []string
	for _, name := range names {
		paths = append(paths, filepath.Join(view, name))
		if err := os.WriteFile(filepath.Join(view, name), nil, 0o600); err != nil {
			return err
		}
	}
	home, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	proc, err := unix.Open(fmt.Sprintf("/proc/%d/root/proc", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(proc)
	private := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	var spent time.Duration
	for range b.N {
		begin := threadTime()
		files := make([]int, len(names))
		for i := range names {
			if files[i], err = unix.OpenTree(unix.AT_FDCWD, paths[i], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
				return err
			}
			if err := unix.MountSetattr(files[i], "", unix.AT_EMPTY_PATH, &private); err != nil {
				return err
			}
		}
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return err
		}
		for i, name := range names {
			place, err := beneath(proc, name, 0, unix.RESOLVE_NO_XDEV)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := moveMount(files[i], place, 0); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			unix.Close(place)
			unix.Close(files[i])
		}
		if err := unix.Setns(home, unix.CLONE_NEWNS); err != nil {
			return err
		}
		spent += threadTime() - begin

		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return err
		}
		for _, name := range names {
			if err := unix.Unmount("/proc/"+name, unix.MNT_DETACH); err != nil {
				return err
			}
		}
		if err := unix.Setns(home, unix.CLONE_NEWNS); err != nil {
			return err
		}
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-us/start")
	return nil
}

// threadTime returns the CPU time of the calling thread.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // it is there
	return time.Duration(t.Nano())
}
