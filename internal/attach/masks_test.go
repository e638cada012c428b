// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
)

// inMountNamespace calls f on a thread with a mount namespace of its own.
func inMountNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// TestMasksAreNotUncovered: a runtime masks a directory after the helper has
// read the mounts of the container.
func TestMasksAreNotUncovered(t *testing.T) {
	cpuDir, cpuFiles := sysDirs[0].path, sysDirs[0].files
	inMountNamespace(t, func() {
		check := func(err error) {
			if err != nil {
				t.Helper()
				t.Error(err)
				runtime.Goexit()
			}
		}
		root, view := t.TempDir(), t.TempDir()
		check(os.Mkdir(root+"/sys", 0o755))
		check(unix.Mount("sysfs", root+"/sys", "sysfs", 0, ""))
		for _, dir := range []string{root, view} { // mount points of their own
			if dir == view {
				check(unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
			}
		}
		check(os.MkdirAll(filepath.Join(view, cpuDir), 0o755))
		for _, name := range cpuFiles {
			check(os.WriteFile(filepath.Join(view, cpuDir, name), []byte("view\n"), 0o644))
		}
		c := &container{root: -1, ns: -1, fds: -1, mountsFD: -1}
		defer c.close()
		var err error
		c.root, err = unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		check(err)
		c.fds, err = unix.Open("/proc/thread-self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		check(err)
		c.mountsFD, err = unix.Open("/proc/thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		check(err)
		list, err := mountinfo.LoadFD(c.mountsFD)
		check(err)
		c.list, c.host = list, new(host)
		check(unix.Fchdir(c.fds))

		// A directory that every machine has below cpuDir.
		mask := filepath.Join(root, cpuDir, "cpu0")
		check(unix.Mount("tmpfs", mask, "tmpfs", unix.MS_RDONLY, ""))
		dir, err := cloneFile(view, cpuDir)
		check(err)
		defer unix.Close(dir)
		it := item{Path: cpuDir, Optional: true}
		j := &job{Items: []item{it}}
		if state, err := c.show(dir, it, j); err != nil || state != Attached {
			t.Errorf("the directory: %s, %v", state, err)
		}
		var results []Result
		check(c.uncover([]int{0}, []int{dir}, j, func(r Result) error {
			results = append(results, r)
			return nil
		}))
		for _, r := range results {
			if r.Err != nil || r.State != Attached && r.State != Absent {
				t.Errorf("%s: %s: %v", r.Target, r.State, r.Err)
			}
		}
		if len(results) != len(cpuFiles) {
			t.Errorf("%d results, want one for each of %v", len(results), cpuFiles)
		}
		if text, err := os.ReadFile(filepath.Join(root, cpuDir, "online")); err != nil || !strings.Contains(string(text), "view") {
			t.Errorf("online has %q, %v", text, err)
		}
		if entries, err := os.ReadDir(mask); err != nil || len(entries) > 0 {
			t.Errorf("what was masked shows: %d entries, %v", len(entries), err)
		}
	})
}

// TestDirectoryWithoutMasksIsAttachedAsAWhole is the usual case.
func TestDirectoryWithoutMasksIsAttachedAsAWhole(t *testing.T) {
	// The same, but nothing is masked, or what is masked was on top later.
	inMountNamespace(t, func() {
		c := &container{root: -1, ns: -1, fds: -1}
		var err error
		c.mountsFD, err = unix.Open("/proc/thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.close()
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		if err := os.Mkdir(dir+"/mask", 0o755); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("tmpfs", dir+"/mask", "tmpfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		mounts, err := mountinfo.LoadFD(c.mountsFD)
		if err != nil {
			t.Error(err)
			return
		}
		if covers, err := covers(mounts, fd); covers || err != nil {
			t.Errorf("a mask on the mount itself: %v, %v", covers, err)
		}
	})
}
