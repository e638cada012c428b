// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/sandbox"
)

// readerEnv says that this process is to be readMix.
const readerEnv = "VPROCFS_TEST_READER"

// BenchmarkMix serves four containers, each of which reads in a loop what a
// monitoring agent reads: it is what `make profile` takes profiles of. The readers
// are other processes, so that the profiles show the daemon's work only.
func BenchmarkMix(b *testing.B) {
	src := testSource(b)
	dir := b.TempDir()
	conn, err := fs.Mount(dir, fs.MountOptions{})
	if err != nil {
		b.Fatal(err)
	}
	server := fs.NewServer(conn, src, src.serverOptions(conn, nil))
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	b.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, 0), <-served, conn.Close()); err != nil {
			b.Error(err)
		}
	})
	const containers = 4
	b.ReportAllocs()
	ends := make(chan error, containers)
	var starts []*os.File
	for range containers {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), readerEnv+"="+strconv.Itoa(b.N/containers+1))
		cmd.Dir = filepath.Join(dir, "proc")
		cmd.Stderr = os.Stderr
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		cmd.Stdin = r
		starts = append(starts, w)
		startReader(b, cmd)
		r.Close()
		go func() { ends <- cmd.Wait() }()
	}
	b.ResetTimer()
	for _, w := range starts {
		w.Close()
	}
	for range containers {
		if err := <-ends; err != nil {
			b.Error(err)
		}
	}
}

// readMix reads files of the working directory in turn, n times, once standard
// input has ended.
func readMix(n string) error {
	count, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	if _, err := os.Stdin.Read(buf); err == nil {
		return errors.New("standard input is not empty")
	}
	files := []string{"uptime", "loadavg", "meminfo", "stat", "cpuinfo", "diskstats"}
	for i := range count {
		fd, err := unix.Open(files[i%len(files)], unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		for n := 1; n > 0; {
			if n, err = unix.Read(fd, buf); err != nil {
				return err
			}
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return nil
}

// startReader starts cmd as the init of a pid namespace, in control groups of
// its own.
func startReader(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	groups, err := sandbox.MakeCgroups(cmd.Process.Pid, sandbox.Limits{Memory: 64 << 20, CPUs: 1.5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()
		if err := groups.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := groups.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
}
