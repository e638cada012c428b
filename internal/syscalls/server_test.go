// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp/seccomptest"
)

// What makes the test binary a server, whose listeners have the given names, or a writer.
const (
	serverEnv = "VPROCFS_TEST_SERVER"
	writerEnv = "VPROCFS_TEST_WRITER"
)

// child is what the test binary does if it was started as one of those.
func child() {
	var err error
	if names, ok := os.LookupEnv(serverEnv); ok {
		err = serveChild(strings.Fields(names))
	} else if _, ok := os.LookupEnv(writerEnv); ok {
		err = RunWriter(3, 4)
	} else {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveChild(names []string) error {
	if err := os.Unsetenv(serverEnv); err != nil {
		return err
	}
	table, err := OpenTable(3)
	if err != nil {
		return err
	}
	over := make(chan struct{}, len(names))
	s := NewServer(ServerConfig{
		View: newFakeView(), Table: table, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Start: startChildWriter,
		Drop: func(Name) { over <- struct{}{} },
	})
	for i, text := range names {
		n, _ := ParseName(text)
		unix.CloseOnExec(4 + i)
		s.Add(n, 4+i)
	}
	for range names {
		<-over
	}
	return nil
}

func startChildWriter(conn, table *os.File, ended func()) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), writerEnv+"=1")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{conn, table}, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = cmd.Wait()
		ended()
	}()
	return nil
}

// holder stands for the holder: it keeps a table, listeners and a watchman, and starts
// servers.
type holder struct {
	t        *testing.T
	table    *Table
	watchman *Watchman
	names    []Name
	files    []*os.File
	server   *exec.Cmd
}

func newHolder(t *testing.T) *holder {
	t.Helper()
	table, err := NewTable(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{t: t, table: table, watchman: NewWatchman(table, slog.New(slog.DiscardHandler))}
	t.Cleanup(h.kill)
	return h
}

// caller starts a caller in the named container.
func (h *holder) caller(container string) *seccomptest.Caller {
	h.t.Helper()
	c, fd := seccomptest.StartFD(h.t, Calls()...)
	n, err := h.watchman.Admit(container, fd)
	if err != nil {
		h.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), n.String())
	h.names, h.files = append(h.names, n), append(h.files, f)
	h.t.Cleanup(func() {
		h.watchman.Forget(n)
		f.Close()
	})
	return c
}

func (h *holder) serve() {
	h.t.Helper()
	var names []string
	table, err := unix.Dup(h.table.fd)
	if err != nil {
		h.t.Fatal(err)
	}
	first := os.NewFile(uintptr(table), "table")
	defer first.Close()
	files := []*os.File{first}
	for i, n := range h.names {
		names, files = append(names, n.String()), append(files, h.files[i])
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverEnv+"="+strings.Join(names, " "))
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.server = cmd
}

// kill kills the server, and waits for its end.
func (h *holder) kill() {
	if h.server == nil {
		return
	}
	_ = h.server.Process.Kill()
	_ = h.server.Wait() // it says that it was killed
	h.server = nil
}

// writers returns the writers of the server.
func (h *holder) writers() (pids []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", h.server.Process.Pid, h.server.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(f)
		pids = append(pids, pid)
	}
	return pids
}

func (h *holder) wantLate(want bool) {
	h.t.Helper()
	if _, late := h.watchman.Count(); late > 0 != want {
		h.t.Errorf("%d calls were left to the kernel", late)
	}
}

// wantAnswer makes a call, and wants the numbers of a fakeView.
func wantAnswer(t *testing.T, c *seccomptest.Caller, addr uintptr) {
	t.Helper()
	info := numbers()
	r, e := c.Call(unix.SYS_SYSINFO, addr)
	if got := c.Peek(addr, maxSysinfo); r != 0 || e != 0 || !bytes.Equal(got, appendSysinfo64(nil, &info)) {
		t.Errorf("%d, %v, %x", r, e, got)
	}
}

func TestNoCallIsLostWithAServerOrAWriter(t *testing.T) {
	h := newHolder(t)
	h.watchman.looks = math.MaxInt // a machine may be slow to start a server
	const callers, kills = 3, 20
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var count atomic.Int64
	for i := range callers {
		c := h.caller(fmt.Sprint("container ", i))
		addr := mapPage(c)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.Poke(addr, make([]byte, maxSysinfo))
					wantAnswer(t, c, addr)
					count.Add(1)
				}
			}
		})
	}
	for i := range kills {
		before := count.Load()
		h.serve()
		for begun := time.Now(); count.Load() < before+5 && time.Since(begun) < seccomptest.Patience; {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		if i%3 == 1 {
			for _, pid := range h.writers() {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		}
		h.kill()
	}
	h.serve()
	close(stop)
	wg.Wait()
	h.wantLate(false)
	t.Log(count.Load(), "calls")
}

func TestCallsThatNobodyAnswersAreTheKernels(t *testing.T) {
	h := newHolder(t)
	c := h.caller("container")
	addr := mapPage(c)
	wantHost := func(why string) {
		t.Helper()
		var host unix.Sysinfo_t
		if err := unix.Sysinfo(&host); err != nil {
			t.Fatal(err)
		}
		var pending []*seccomptest.Pending
		for range 10 {
			pending = append(pending, c.Go(unix.SYS_SYSINFO, addr))
		}
		for _, p := range pending {
			if r, e := p.Wait(); r != 0 || e != 0 {
				t.Errorf("%s: %d, %v", why, r, e)
			}
		}
		if got := totalRAM(c, addr); got != host.Totalram {
			t.Errorf("%s: %d bytes, the host has %d", why, got, host.Totalram)
		}
	}
	wantHost("no server")
	h.serve()
	wantAnswer(t, c, addr)
	// In the middle of whatever it is at.
	if err := h.server.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	wantHost("a server that is stopped")
	if err := h.server.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, c, addr)
	h.wantLate(true)
}

func totalRAM(c *seccomptest.Caller, addr uintptr) (n uint64) {
	for i, b := range c.Peek(addr+32, 8) {
		n |= uint64(b) << (8 * i)
	}
	return n
}

// TestServerOutlivesAWriterThatHangs: the writer cannot be killed while the container's own
// file system does not answer. Its server can, and the next one answers all other calls.
func TestServerOutlivesAWriterThatHangs(t *testing.T) {
	f := &slowFile{fuse.NewDefaultRawFileSystem(), make(chan struct{}, 10), make(chan struct{})}
	dir := t.TempDir()
	server, err := fuse.NewServer(f, dir, &fuse.MountOptions{DirectMountStrict: true})
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	h := newHolder(t)
	c, beside, other := h.caller("hostile"), h.caller("hostile"), h.caller("other")
	path, addr := mapPage(c), mapPage(c)
	c.Poke(path, []byte(dir+"/file\x00"))
	at := unix.AT_FDCWD
	fd, e := c.Call(unix.SYS_OPENAT, uintptr(at), path, unix.O_RDWR)
	if e != 0 {
		t.Fatal("open: ", e)
	}
	hole, e := c.Call(unix.SYS_MMAP, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE, uintptr(fd), 0)
	if e != 0 {
		t.Fatal("mmap: ", e)
	}
	h.serve()
	stuck := c.Go(unix.SYS_SYSINFO, uintptr(hole))
	select {
	case <-f.read:
	case <-time.After(seccomptest.Patience):
		t.Fatal("the file system is not asked")
	}
	answers := func() {
		t.Helper()
		wantAnswer(t, beside, mapPage(beside)) // the writer has only the memory of c locked
		wantAnswer(t, other, mapPage(other))
	}
	answers()
	hung := h.writers()
	h.kill()
	h.serve()
	answers()
	// Longer than the watchman waits: what the writer writes must not come after the call.
	time.Sleep((lateLooks + 2) * lookEvery)
	for _, pid := range hung {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	answers()
	if stuck.Returned() {
		t.Error("the call has returned without the page")
	}
	h.wantLate(false)
	close(f.release)
	// The killed writer may have ended before it could answer: the server does then.
	if r, e := stuck.Wait(); r != 0 || e != 0 {
		t.Errorf("with the page: %d, %v", r, e)
	}
	wantAnswer(t, c, addr)
}

func TestServerDropsListenersThatEnded(t *testing.T) {
	h := newHolder(t)
	c := h.caller("container")
	addr := mapPage(c)
	h.serve()
	wantAnswer(t, c, addr)
	c.Kill()
	ended := make(chan error, 1)
	go func() { ended <- h.server.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
		h.server = nil
	case <-time.After(seccomptest.Patience):
		t.Error("the server still serves a listener without threads")
	}
	if got := h.table.header.counts.stats(); got["sysinfo/answered"] != 1 {
		t.Error(got)
	}
}

func TestListenersOfAContainerAreBounded(t *testing.T) {
	table, err := NewTable(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	w := NewWatchman(table, slog.New(slog.DiscardHandler))
	seen := make(map[Name]bool)
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for i := 0; ; i++ {
		n, err := w.Admit("web", fd)
		if err != nil {
			if err != ErrTooMany || i != maxPerContainer {
				t.Errorf("%d listeners, %v", i, err)
			}
			break
		}
		if seen[n] {
			t.Fatal("twice: ", n)
		}
		seen[n] = true
	}
	if _, err := w.Admit("other", fd); err != nil {
		t.Error(err)
	}
	for n := range seen {
		w.Forget(n)
	}
	// No name comes again.
	if n, err := w.Admit("web", fd); err != nil || seen[n] {
		t.Error(n, err)
	}
}

func TestNamesAreParsed(t *testing.T) {
	want := Name{17, 1 << 40}
	if n, ok := ParseName(want.String()); !ok || n != want {
		t.Error(n, ok)
	}
	for _, text := range []string{"", "vprocfs-calls", "vprocfs-call-", "vprocfs-call-1", "vprocfs-call-1-1 ", "vprocfs-call--1-1", "vprocfs-call-2048-1", "vprocfs-call-01-1"} {
		if n, ok := ParseName(text); ok {
			t.Error(text, n)
		}
	}
}

// TestTableIsThatOfOtherVersions: a server of another version goes on with it.
func TestTableIsThatOfOtherVersions(t *testing.T) {
	if tableSize != 4096+2048*5856 {
		t.Errorf("%d bytes", tableSize)
	}
	fd, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := OpenTable(fd); err == nil {
		t.Error("a table of no size")
	}
	if err := unix.Ftruncate(fd, int64(tableSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTable(fd); err == nil {
		t.Error("a table of zeros")
	}
}

func FuzzNames(f *testing.F) {
	f.Add("vprocfs-call-17-3")
	f.Add("vprocfs-call-17-")
	f.Fuzz(func(t *testing.T, text string) {
		if n, ok := ParseName(text); ok && (n.String() != text || n.Slot < 0 || n.Slot >= MaxListeners) {
			t.Errorf("%q: %+v", text, n)
		}
	})
}
