// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// helperEnv names what the test binary does instead of tests: "" to start the
// tests in a mount namespace of their own, so that nothing they mount outlives
// them; "tests"; or a client program of helper_test.go.
const helperEnv = "VPROCFS_FS_TEST"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(helperEnv); mode {
	case "":
		cmd := helper("tests", os.Args[1:]...)
		// The tests end with this process, whatever ends it. The kernel
		// counts in threads here, hence the lock.
		runtime.LockOSThread()
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		var exit *exec.ExitError
		if err := cmd.Run(); errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "tests need root:", err)
			os.Exit(1)
		}
	case "tests":
		os.Exit(m.Run())
	default:
		if err := runHelper(mode, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, mode+":", err)
			os.Exit(1)
		}
	}
}

// helper is a command that runs this binary in another mode.
func helper(mode string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+mode)
	return cmd
}

// sourceFunc is a Source.
type sourceFunc func(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error)

func (f sourceFunc) Append(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error) {
	return f(dst, n, t)
}

// Owner makes each thread an owner.
func (sourceFunc) Owner(c fs.Caller) uint64 { return uint64(c.PID) }

// constant is the same content for every file and caller.
func constant(content string) fs.Source {
	return sourceFunc(func(dst []byte, _ fs.NodeID, _ *fs.Turn) ([]byte, error) {
		return append(dst, content...), nil
	})
}

// deadline is for what takes milliseconds on a machine that has time.
const deadline = 60 * time.Second

// tempDir is t.TempDir for all users.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// served is a mount with a server.
type served struct {
	dir  string
	conn *fs.Conn
	srv  *fs.Server
	done chan error // what Serve returned
}

func (m *served) path(name string) string { return m.dir + "/proc/" + name }

// serve mounts and serves until the test ends.
func serve(t testing.TB, src fs.Source, o fs.ServerOptions) *served {
	t.Helper()
	m := &served{dir: tempDir(t), done: make(chan error, 1)}
	conn, err := fs.Mount(m.dir, fs.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.conn = conn
	m.srv = fs.NewTestServer(conn, src, o)
	go func() { m.done <- m.srv.Serve() }()
	t.Cleanup(func() {
		if err := fs.Unmount(m.dir); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
		if m.done != nil {
			m.wait(t)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// wait returns what Serve returned, once it has.
func (m *served) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-m.done:
		m.done = nil
		return err
	case <-time.After(deadline):
		m.done = nil
		t.Fatal("Serve does not return")
		return nil
	}
}

// open opens a file until the test ends.
func open(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// pread reads up to size bytes at off.
func pread(t testing.TB, fd, size int, off int64) string {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Pread(fd, buf, off)
	if err != nil {
		t.Fatalf("pread at %d: %v", off, err)
	}
	return string(buf[:n])
}

// readAll is a cat with a buffer of 4096 bytes, with raw system calls.
func readAll(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return string(all), err
		}
		all = append(all, buf[:n]...)
	}
}

// asUser runs f on a thread with the fsuid and fsgid id, and none of root's
// rights to files.
func asUser(t testing.TB, id int, f func()) {
	t.Helper()
	asIDs(t, id, id, f)
}

// asIDs is asUser with two ids.
func asIDs(t testing.TB, uid, gid int, f func()) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		// Not unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setfsgid(gid); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Setfsuid(uid); err != nil {
			t.Error(err)
			return
		}
		f()
	})
	wg.Wait()
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
