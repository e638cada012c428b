// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

func TestManyThreadsGetRightAnswers(t *testing.T) {
	for _, content := range []string{"12345.67 23456.78\n", strings.Repeat("0123456789abcde\n", 300)} {
		m := serve(t, constant(content), fs.ServerOptions{})
		if out, err := helper("hammer", m.path("uptime"), "100").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// abortConnection aborts the connection that is mounted at dir.
func abortConnection(t *testing.T, dir string) {
	t.Helper()
	control := t.TempDir()
	if err := unix.Mount("none", control, "fusectl", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(control, unix.MNT_DETACH) }()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	abort := fmt.Sprintf("%s/%d/abort", control, unix.Minor(st.Dev))
	if err := os.WriteFile(abort, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestAbortEndsServe(t *testing.T) {
	g := newGate()
	m := serve(t, g, fs.ServerOptions{Workers: 1})
	// One slow read is running and one is in the queue.
	results := readers(2, m.path("meminfo"))
	eventually(t, "the reads are on their way", func() bool { return g.calls.Load() == 2 })
	abortConnection(t, m.dir)
	for range 2 {
		if err := <-results; err != unix.ECONNABORTED {
			t.Errorf("a read in flight: %v, want ECONNABORTED", err)
		}
	}
	close(g.open)
	if err := m.wait(t); !errors.Is(err, fs.ErrAborted) {
		t.Errorf("Serve: %v, want ErrAborted", err)
	}
}

func TestUnmountLetsOpenHandlesFinish(t *testing.T) {
	m := serve(t, constant("content"), fs.ServerOptions{})
	fd, err := unix.Open(m.path("uptime"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Unmount(m.dir); err != nil {
		t.Fatal(err)
	}
	if got := pread(t, fd, 100, 0); got != "content" {
		t.Errorf("after the unmount: %q", got)
	}
	select {
	case err := <-m.done:
		t.Fatalf("Serve has returned with a file open: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	unix.Close(fd)
	if err := m.wait(t); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestUnmountOfWhatIsNoMountFails(t *testing.T) {
	if err := fs.Unmount(t.TempDir()); !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v, want EINVAL", err)
	}
}

// A successor has the descriptor. It has never seen the handles that are open.
func TestSuccessorServesTheConnectionAndItsOldHandles(t *testing.T) {
	content := strings.Repeat("0123456789", 1000)
	m := serve(t, constant(content), fs.ServerOptions{})
	fd := open(t, m.path("stat"))
	pread(t, fd, 1000, 0)

	m.srv.Stop()
	// The parked reader takes one more request and goes. It may
	// have gone already; then both wait for the next server.
	asked := make(chan error, 2)
	statfs := func() {
		var st unix.Statfs_t
		asked <- unix.Statfs(m.dir, &st)
	}
	go statfs()
	if err := m.wait(t); err != nil {
		t.Fatalf("Serve after Stop: %v", err)
	}
	go statfs()

	m.srv = fs.NewTestServer(fs.NewConn(m.conn.FD()), constant(content), fs.ServerOptions{})
	m.done = make(chan error, 1)
	go func() { m.done <- m.srv.Serve() }()
	for range 2 {
		if err := <-asked; err != nil {
			t.Errorf("a request between the servers: %v", err)
		}
	}
	// Without the journal nobody knows the text that was begun.
	if n, err := unix.Pread(fd, make([]byte, 1<<16), 1000); err != unix.ESTALE {
		t.Errorf("the old handle goes on with %d bytes, %v, want ESTALE", n, err)
	}
	if got := pread(t, fd, 1<<16, int64(len(content))); got != "" {
		t.Errorf("after the end of the old text: %d bytes", len(got))
	}
	if end, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil || end != int64(len(content)) {
		t.Errorf("its end is at %d, %v", end, err)
	}
	if got := pread(t, fd, 1<<16, 0); got != content {
		t.Errorf("from the start it has %d bytes", len(got))
	}
	if names := list(t, m.dir+"/proc"); len(names) == 0 || names[0] != "uptime" {
		t.Errorf("%q", names)
	}
	if got, err := readAll(m.path("uptime")); got != content {
		t.Errorf("a new handle: %d bytes, %v", len(got), err)
	}
}
