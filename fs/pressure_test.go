// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

const quiet = unix.POLLIN | unix.POLLOUT | unix.EPOLLRDNORM | unix.EPOLLWRNORM

// fakeTriggers remembers what it is asked for.
type fakeTriggers struct {
	mu       sync.Mutex
	set      map[uint64]string // by file handle
	node     fs.NodeID
	caller   fs.Caller
	kh       uint64 // of the last POLL that waits
	events   uint32 // to be told once
	released []uint64
	answer   error
	entered  chan struct{} // where it is not nil, Set tells that it was called,
	leave    chan struct{} // and waits
}

func (f *fakeTriggers) Set(t *fs.Turn, fh uint64, n fs.NodeID, text []byte) error {
	c := t.Caller()
	if f.entered != nil {
		f.entered <- struct{}{}
		<-f.leave
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.node, f.caller = n, c
	if f.answer == nil {
		f.set[fh] = string(text)
	}
	return f.answer
}

func (f *fakeTriggers) Poll(fh, kh uint64, asked uint32) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if kh != 0 {
		f.kh = kh
	}
	events := f.events | quiet
	f.events = 0
	return events
}

func (f *fakeTriggers) Release(fh uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.set, fh)
	f.released = append(f.released, fh)
}

func (f *fakeTriggers) waiter() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kh
}

func (f *fakeTriggers) forgetWaiter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kh = 0
}

// fail makes Set return err from now on.
func (f *fakeTriggers) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = err
}

func (f *fakeTriggers) fire(events uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = events
}

func (f *fakeTriggers) texts() (texts []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, text := range f.set {
		texts = append(texts, text)
	}
	return texts
}

// servePressure serves files that can be written to.
func servePressure(t *testing.T, f *fakeTriggers) *served {
	t.Helper()
	f.set = map[uint64]string{}
	return serve(t, constant("some\nfull\n"), fs.ServerOptions{Triggers: f})
}

func openRDWR(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// poll returns the events of fd within a time in milliseconds.
func poll(t *testing.T, fd int, asked int16, ms int) int16 {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: asked}}
	for {
		_, err := unix.Poll(fds, ms)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatalf("poll: %v", err)
		}
		return fds[0].Revents
	}
}

func TestAPressureFileIsWrittenAndRead(t *testing.T) {
	f := &fakeTriggers{}
	m := servePressure(t, f)
	if names := list(t, m.path("pressure")); !slices.Equal(names, []string{"cpu", "memory", "io"}) {
		t.Errorf("it has %q", names)
	}
	fd := openRDWR(t, m.path("pressure/memory"))
	const text = "some 150000 1000000\x00"
	if n, err := unix.Write(fd, []byte(text)); n != len(text) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	f.mu.Lock()
	if f.node != fs.NodePressureMemory || f.caller.PID == 0 || f.caller.UID != 0 {
		t.Errorf("node %d, caller %+v", f.node, f.caller)
	}
	f.mu.Unlock()
	if texts := f.texts(); !slices.Equal(texts, []string{text}) {
		t.Errorf("triggers %q", texts)
	}
	if got := pread(t, fd, 100, 0); got != "some\nfull\n" {
		t.Errorf("read %q", got)
	}
	unix.Close(fd)
	eventually(t, "the trigger ends with the file", func() bool { return len(f.texts()) == 0 })
}

func TestAWritersErrorsAreItsOwn(t *testing.T) {
	f := &fakeTriggers{answer: unix.ENOSPC}
	m := servePressure(t, f)
	fd := openRDWR(t, m.path("pressure/io"))
	if _, err := unix.Write(fd, []byte("some 1 1")); err != unix.ENOSPC {
		t.Errorf("write: %v", err)
	}
	f.fail(errors.New("no errno"))
	if _, err := unix.Write(fd, []byte("some 1 1")); err != unix.EIO {
		t.Errorf("write: %v", err)
	}
	if got := pread(t, fd, 100, 0); got != "some\nfull\n" {
		t.Errorf("read %q", got)
	}
}

// TestAPollerIsWokenByWake waits by poll(2) and epoll(7), on one open file at once.
func TestAPollerIsWokenByWake(t *testing.T) {
	f := &fakeTriggers{}
	m := servePressure(t, f)
	fd := openRDWR(t, m.path("pressure/cpu"))
	if got := poll(t, fd, unix.POLLPRI, 20); got != 0 {
		t.Errorf("without an event: %#x", got)
	}
	f.forgetWaiter()
	for range 3 {
		events := make(chan int16)
		go func() { events <- poll(t, fd, unix.POLLPRI, int(deadline.Milliseconds())) }()
		eventually(t, "somebody waits", func() bool { return f.waiter() != 0 })
		f.fire(unix.POLLPRI)
		if err := m.conn.Wake(f.waiter()); err != nil {
			t.Fatal(err)
		}
		if got := <-events; got != unix.POLLPRI {
			t.Errorf("an event: %#x", got)
		}
		f.forgetWaiter()
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ep)
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLPRI}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "epoll waits", func() bool { return f.waiter() != 0 })
	f.fire(unix.POLLPRI | unix.POLLERR)
	if err := m.conn.Wake(f.waiter()); err != nil {
		t.Fatal(err)
	}
	var got [1]unix.EpollEvent
	if n, err := unix.EpollWait(ep, got[:], int(deadline.Milliseconds())); n != 1 || err != nil || got[0].Events != unix.EPOLLPRI|unix.EPOLLERR {
		t.Errorf("epoll: %d %v %+v", n, err, got)
	}
	unix.Close(fd)
	eventually(t, "the file is released", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.released) == 1 })
	if err := m.conn.Wake(f.waiter()); err != nil {
		t.Errorf("wake of a closed file: %v", err)
	}
}

// TestAGoProgramReadsAPressureFile: package os puts each file it opens into an
// epoll set.
func TestAGoProgramReadsAPressureFile(t *testing.T) {
	m := servePressure(t, &fakeTriggers{})
	out, err := helper("osread", m.path("pressure/cpu"), "100").Output()
	if err != nil || string(out) != "some\nfull\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestALateTriggerOfAnInterruptedWriteIsReleased: the file may be closed by then.
func TestALateTriggerOfAnInterruptedWriteIsReleased(t *testing.T) {
	f := &fakeTriggers{entered: make(chan struct{}), leave: make(chan struct{})}
	m := servePressure(t, f)
	cmd := helper("write", m.path("pressure/cpu"), "1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-f.entered
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	close(f.leave)
	eventually(t, "the trigger is set and ended", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.node != 0 && len(f.set) == 0
	})
	// Nothing hangs.
	if got := pread(t, openRDWR(t, m.path("pressure/cpu")), 100, 0); got != "some\nfull\n" {
		t.Errorf("read %q", got)
	}
}

// A write may be long, far from the start, and appended, as to the kernel's own file.
func TestAWriteMayBeAnywhereAndOfAnyLength(t *testing.T) {
	f := &fakeTriggers{set: make(map[uint64]string)}
	m := servePressure(t, f)
	const text = "some 150000 2000000"
	fd := openRDWR(t, m.path("pressure/cpu"))
	write := func(off int64, n int) {
		t.Helper()
		if _, err := unix.Pwrite(fd, []byte(text+strings.Repeat(" ", n-len(text))), off); err != nil {
			t.Errorf("%d bytes at %d: %v", n, off, err)
		}
	}
	write(0, len(text))
	write(0, 4096)
	write(1<<40, len(text))
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
		t.Fatal(err)
	}
	write(0, len(text))
	for _, got := range f.texts() {
		if !strings.HasPrefix(got, text) {
			t.Errorf("set %q", got)
		}
	}
}

// changesOf tries everything that would change a file system, at file and at a new name
// beside it. It returns the errors.
func changesOf(file, beside string) map[string]error {
	now := []unix.Timespec{unix.NsecToTimespec(time.Now().UnixNano()), unix.NsecToTimespec(1)}
	return map[string]error{
		"open for writing":  openError(file, unix.O_WRONLY),
		"open for both":     openError(file, unix.O_RDWR),
		"open to truncate":  openError(file, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC),
		"open to append":    openError(file, unix.O_WRONLY|unix.O_APPEND),
		"access to write":   unix.Access(file, unix.W_OK),
		"truncate":          unix.Truncate(file, 0),
		"utimensat":         unix.UtimesNanoAt(unix.AT_FDCWD, file, now, 0),
		"chmod":             unix.Chmod(file, 0o600),
		"chown":             unix.Chown(file, 1, 1),
		"unlink":            unix.Unlink(file),
		"mkdir":             unix.Mkdir(beside, 0o700),
		"rename":            unix.Rename(file, beside),
		"link":              unix.Link(file, beside),
		"symlink":           unix.Symlink(file, beside),
		"mknod":             unix.Mknod(beside, unix.S_IFREG|0o600, 0),
		"create":            openError(beside, unix.O_CREAT|unix.O_WRONLY),
		"create and read":   openError(beside, unix.O_CREAT|unix.O_RDONLY),
		"access to write /": unix.Access(path.Dir(file), unix.W_OK),
	}
}

// TestOnlyPressureCanBeOpenedForWriting: the rest is as on a read-only file system, though
// the superblock is not.
func TestOnlyPressureCanBeOpenedForWriting(t *testing.T) {
	tree := openCPUs(t, fakeCPUs(t, 2), nil)
	m := serve(t, constant("some\nfull\n"), fs.ServerOptions{Triggers: &fakeTriggers{}, Hosts: []*fs.HostTree{tree}})
	for _, file := range []string{m.path("uptime"), m.path("stat"), m.dir + "/sys/devices/system/cpu/online", m.dir + "/sys/devices/system/cpu/cpu0/topology/core_id"} {
		for what, err := range changesOf(file, path.Dir(file)+"/x") {
			if err != unix.EROFS {
				t.Errorf("%s: %s: %v, want EROFS", file, what, err)
			}
		}
	}
	file := m.path("pressure/cpu")
	allowed := map[string]bool{"open for writing": true, "open for both": true, "open to truncate": true, "open to append": true,
		"access to write": true, "truncate": true, "utimensat": true}
	for what, err := range changesOf(file, m.path("pressure/x")) {
		want := error(unix.EROFS)
		switch {
		case allowed[what]:
			want = nil
		case what == "chmod" || what == "chown":
			want = unix.EPERM
		}
		if err != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil || st.Mode != unix.S_IFREG|0o666 || st.Size != 4096 || st.Uid != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	for _, uid := range []int{0, 1234} {
		asUser(t, uid, func() {
			for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
				if err := openError(file, flags); err != nil {
					t.Errorf("open %d of user %d: %v", flags, uid, err)
				}
			}
		})
	}
}

// TestOtherFilesAreAlwaysReady: poll(2) and epoll(7) find them as regular files.
func TestOtherFilesAreAlwaysReady(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{Triggers: &fakeTriggers{}})
	fd := open(t, m.path("uptime"))
	for range 2 {
		if got := poll(t, fd, unix.POLLIN|unix.POLLPRI, 0); got != unix.POLLIN {
			t.Errorf("poll: %#x", got)
		}
		if got := poll(t, fd, unix.POLLPRI, 0); got != 0 {
			t.Errorf("poll for POLLPRI: %#x", got)
		}
	}
	out, err := helper("osread", m.path("stat"), "100").Output()
	if err != nil || string(out) != "x" {
		t.Errorf("a Go program reads %q, %v", out, err)
	}
}

// TestWithoutTriggersNoPollIsAnswered: the kernel then never asks again.
func TestWithoutTriggersNoPollIsAnswered(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{})
	fd := open(t, m.path("uptime"))
	for range 2 {
		if got := poll(t, fd, unix.POLLIN|unix.POLLPRI, 0); got != unix.POLLIN {
			t.Errorf("poll: %#x", got)
		}
	}
}

// osRead is a Go program that reads a file n times.
func osRead(path string, n int) (err error) {
	var text []byte
	for range n {
		if text, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	_, err = os.Stdout.Write(text)
	return err
}

// rawWrite writes to a file.
func rawWrite(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("some 1 1"))
	return err
}

// TestAWriteDelaysNobody guards the reader: a WRITE never runs on it.
func TestAWriteDelaysNobody(t *testing.T) {
	f := &fakeTriggers{entered: make(chan struct{}), leave: make(chan struct{})}
	m := servePressure(t, f)
	fd := openRDWR(t, m.path("pressure/cpu"))
	other := openRDWR(t, m.path("pressure/io"))
	written := make(chan error, 1)
	go func() {
		_, err := unix.Write(fd, []byte("some 150000 2000000"))
		written <- err
	}()
	<-f.entered
	read := make(chan string, 1)
	go func() {
		buf := make([]byte, 100)
		n, _ := unix.Pread(other, buf, 0)
		read <- string(buf[:max(n, 0)])
	}()
	select {
	case got := <-read:
		if got != "some\nfull\n" {
			t.Errorf("read %q", got)
		}
	case <-time.After(deadline / 4):
		t.Error("a read waits for the write")
	}
	close(f.leave)
	if err := <-written; err != nil {
		t.Errorf("write: %v", err)
	}
}

// TestSeekingToTheEndWaitsForNoContent: the kernel holds the lock of the inode meanwhile, and
// the writes of all containers need it.
func TestSeekingToTheEndWaitsForNoContent(t *testing.T) {
	leave := make(chan struct{})
	src := sourceFunc(func(dst []byte, _ fs.NodeID, turn *fs.Turn) ([]byte, error) {
		if err := turn.Block(0); err != nil {
			return dst, fmt.Errorf("find the container: %w", err)
		}
		<-leave
		return append(dst, "some\n"...), nil
	})
	f := &fakeTriggers{set: map[uint64]string{}}
	m := serve(t, src, fs.ServerOptions{Triggers: f})
	defer close(leave)
	fd := open(t, m.path("pressure/cpu"))
	done := make(chan error, 2)
	go func() {
		end, err := unix.Seek(fd, 0, unix.SEEK_END)
		if err == nil && end != 4096 {
			err = fmt.Errorf("the end is at %d", end)
		}
		done <- err
	}()
	go func() {
		fd, err := unix.Open(m.path("pressure/cpu"), unix.O_RDWR, 0)
		if err == nil {
			_, err = unix.Write(fd, []byte("some 150000 2000000"))
			unix.Close(fd)
		}
		done <- err
	}()
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(deadline / 4):
			t.Fatal("it waits")
		}
	}
}

// askedOwners counts how often it is asked for the owner of a thread.
type askedOwners struct {
	fs.Source
	asked atomic.Int64
}

func (a *askedOwners) Owner(fs.Caller) uint64 {
	a.asked.Add(1)
	return 7
}

// TestWritesOfOneThreadAskForItsOwnerOnce: to find an owner takes system calls, which are
// made before the turn of the owner comes. 200 threads that write would make them all at
// once.
func TestWritesOfOneThreadAskForItsOwnerOnce(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	src := &askedOwners{Source: constant("some\nfull\n")}
	m := serve(t, src, fs.ServerOptions{Triggers: &fakeTriggers{set: map[uint64]string{}}})
	fd := openRDWR(t, m.path("pressure/cpu"))
	start := time.Now()
	for range 200 {
		if _, err := unix.Write(fd, []byte("some 100000 1000000")); err != nil {
			t.Fatal(err)
		}
	}
	// It is remembered for a second.
	if n, most := src.asked.Load(), int64(time.Since(start)/time.Second)+1; n > most {
		t.Errorf("the owner was asked for %d times, want %d at most", n, most)
	}
}
