// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is a running `vprocfs serve` whose log the test reads.
type daemon struct {
	cmd *exec.Cmd
	// log is what pipe has.
	log  *bufio.Reader
	pipe *os.File
	dir  string
}

// newDaemon is the daemon cmd, which writes its log to the pipe of StderrPipe.
func newDaemon(cmd *exec.Cmd, pipe io.ReadCloser, dir string) *daemon {
	return &daemon{cmd, bufio.NewReader(pipe), pipe.(*os.File), dir}
}

// startDaemon starts a command line that serves dir, and reads its log up to the
// line that says so.
func startDaemon(t *testing.T, dir string, env []string, args ...string) *daemon {
	t.Helper()
	return startDaemonCommand(t, dir, exec.Command("vprocfs", args...), env)
}

// startDaemonCommand is startDaemon with a command of one's own.
func startDaemonCommand(t testing.TB, dir string, cmd *exec.Cmd, env []string) *daemon {
	t.Helper()
	cmd.Env = append(os.Environ(), env...)
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
	return d
}

// line reads a line of the log.
func (d *daemon) line(t testing.TB) string {
	t.Helper()
	if err := d.pipe.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	s, err := d.log.ReadString('\n')
	if err == nil {
		err = d.pipe.SetReadDeadline(time.Time{})
	}
	if err != nil {
		t.Fatalf("log of %s: %v", d.cmd, err)
	}
	return s
}

// end waits for the daemon's end and returns the rest of its log.
func (d *daemon) end(t *testing.T) (log string, status int) {
	t.Helper()
	var b bytes.Buffer
	if _, err := d.log.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	d.cmd.Wait()
	return b.String(), d.cmd.ProcessState.ExitCode()
}

// isMounted tells whether a FUSE mount is on dir.
func isMounted(t *testing.T, dir string) bool {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[4] == dir {
			return true
		}
	}
	return false
}

func TestSignalsEndServeCleanly(t *testing.T) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(unix.SignalName(s), func(t *testing.T) {
			dir := t.TempDir()
			d := startDaemon(t, dir, nil, "serve", dir)
			if line := d.line(t); !strings.Contains(line, "msg=serving") || !strings.Contains(line, dir) {
				t.Fatalf("first line of the log: %s", line)
			}
			if got := strings.Fields(readFile(t, filepath.Join(dir, "proc/uptime"))); len(got) != 2 {
				t.Errorf("once it says serving, uptime has %q", got)
			}
			d.cmd.Process.Signal(s)
			log, status := d.end(t)
			if status != 0 || !strings.Contains(log, "msg=stopping") || !strings.Contains(log, "counts=") {
				t.Errorf("exit status %d\n%s", status, log)
			}
			if isMounted(t, dir) {
				t.Error("it is still mounted")
			}
		})
	}
}

func TestServeUnmountsWhileItIsInUse(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	f, err := os.Open(filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 {
		t.Errorf("exit status %d\n%s", status, log)
	}
	if isMounted(t, dir) {
		t.Error("it is still mounted")
	}
}

func TestABareMountPointIsServed(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, dir)
	if line := d.line(t); !strings.Contains(line, "msg=serving") {
		t.Errorf("log: %s", line)
	}
}

func TestAMountPointMayBeASymlink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, dir, nil, "serve", link)
	d.line(t)
	if !isMounted(t, dir) {
		t.Fatal("the link's target is not mounted on")
	}
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 || isMounted(t, dir) {
		t.Errorf("exit status %d, still mounted: %t\n%s", status, isMounted(t, dir), log)
	}
}

func TestServeEndsWhenItIsUnmounted(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if log, status := d.end(t); status != 0 || !strings.Contains(log, "unmounted") {
		t.Errorf("exit status %d\n%s", status, log)
	}
}

func TestASecondDaemonIsRefused(t *testing.T) {
	dir := t.TempDir()
	startDaemon(t, dir, nil, "serve", dir).line(t)
	_, stderr, status := vprocfs(t, "serve", dir)
	if status != 1 || !strings.HasPrefix(stderr, "vprocfs: serve: mount "+dir+": something is already mounted there") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit status %d: %s", status, stderr)
	}
	readFile(t, filepath.Join(dir, "proc/uptime")) // the first one goes on
}

func TestAMountOfADeadDaemonIsReplaced(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	killDaemon(d.cmd)
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("the mount of a killed daemon answers: nothing to replace")
	}
	_, stderr, status := vprocfs(t, "run", "--mount", dir, "--", "true")
	if status != 1 || !strings.Contains(stderr, "transport endpoint is not connected") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("run on a dead mount: exit status %d: %s", status, stderr)
	}
	if line := startDaemon(t, dir, nil, "serve", dir).line(t); !strings.Contains(line, "msg=serving") {
		t.Errorf("log: %s", line)
	}
	readFile(t, filepath.Join(dir, "proc/uptime"))
}

func TestLogFormats(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", "--log-format", "json", dir)
	var line struct{ Time, Level, Msg, Mountpoint string }
	if err := json.Unmarshal([]byte(d.line(t)), &line); err != nil {
		t.Fatal(err)
	}
	if line.Time == "" || line.Level != "INFO" || line.Msg != "serving" || line.Mountpoint != dir {
		t.Errorf("log: %+v", line)
	}

	// The journal has its own times.
	dir = t.TempDir()
	d = startDaemon(t, dir, []string{"JOURNAL_STREAM=8:12345"}, "serve", dir)
	if line := d.line(t); !strings.HasPrefix(line, "level=INFO msg=serving ") {
		t.Errorf("log: %s", line)
	}

	dir = t.TempDir()
	d = startDaemon(t, dir, nil, "serve", "--log-level", "error", dir)
	waitFor(t, "the mount", func() bool { return isMounted(t, dir) })
	readFile(t, filepath.Join(dir, "proc/uptime"))
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 || log != "" {
		t.Errorf("exit status %d, log %q", status, log)
	}
}
