// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// counter makes "1 aaa...\n", "2 aaa...\n": each content another.
type counter struct {
	made    atomic.Int64
	padding int
}

func (*counter) Owner(fs.Caller) uint64 { return 0 }

func (s *counter) Append(dst []byte, _ fs.NodeID, _ *fs.Turn) ([]byte, error) {
	dst = fmt.Appendf(dst, "%d ", s.made.Add(1))
	return append(append(dst, strings.Repeat("a", s.padding)...), '\n'), nil
}

func TestReadAtZeroIsFreshAndOtherOffsetsAreKept(t *testing.T) {
	for _, padding := range []int{2, 1000, 70_000} {
		m := serve(t, &counter{padding: padding}, fs.ServerOptions{})
		fd := open(t, m.path("uptime"))
		if got := pread(t, fd, 2, 0); got != "1 " {
			t.Errorf("first read: %q", got)
		}
		if got, want := pread(t, fd, 1<<20, 1), " "+strings.Repeat("a", padding)+"\n"; got != want {
			t.Errorf("the rest of it: %d bytes, want %d", len(got), len(want))
		}
		if got := pread(t, fd, 2, 0); got != "2 " {
			t.Errorf("read at 0 again: %q", got)
		}
		if got := pread(t, fd, 10, int64(padding)+3); got != "" {
			t.Errorf("at the end: %q", got)
		}
		if got := pread(t, fd, 10, 1<<40); got != "" {
			t.Errorf("far past the end: %q", got)
		}
	}
}

func TestReadElsewhereMakesContentWhereThereIsNone(t *testing.T) {
	src := &counter{padding: 3}
	m := serve(t, src, fs.ServerOptions{})
	fd := open(t, m.path("uptime"))
	if got := pread(t, fd, 10, 2); got != "aaa\n" {
		t.Errorf("read at 2: %q", got)
	}
	if got := pread(t, fd, 10, 3); got != "aa\n" || src.made.Load() != 1 {
		t.Errorf("read at 3: %q, content made %d times", got, src.made.Load())
	}
}

func TestAnySplitGivesTheBytesOfOneLargeRead(t *testing.T) {
	var b strings.Builder
	for i := range 12_000 {
		fmt.Fprintf(&b, "%d ", i)
	}
	want := b.String() // more than 64 KiB
	m := serve(t, constant(want), fs.ServerOptions{})
	for _, size := range []int{1000, 4096, 5000, 65536, 131072, 1 << 20} {
		fd := open(t, m.path("stat"))
		var got strings.Builder
		for {
			s := pread(t, fd, size, int64(got.Len()))
			if s == "" {
				break
			}
			got.WriteString(s)
		}
		if got.String() != want {
			t.Errorf("in reads of %d bytes: %d bytes, want %d", size, got.Len(), len(want))
		}
	}
	// From the end to the front, on one handle.
	fd := open(t, m.path("stat"))
	got := ""
	for off := len(want) / 777 * 777; off >= 0; off -= 777 {
		got = pread(t, fd, 777, int64(off)) + got
	}
	if got != want {
		t.Error("backwards: not the same bytes")
	}
}

func TestHugeContentIsNotCut(t *testing.T) {
	want := strings.Repeat("0123456789abcde\n", 3<<20/16)
	m := serve(t, constant(want), fs.ServerOptions{})
	got, err := readAll(m.path("stat"))
	if err != nil || got != want {
		t.Errorf("%d bytes, want %d, %v", len(got), len(want), err)
	}
}

// One read(2) of 64 KiB must not become sixteen requests: each is a round trip.
func TestLargeReadIsOneRequest(t *testing.T) {
	m := serve(t, constant(strings.Repeat("x", 70<<10)), fs.ServerOptions{})
	fd := open(t, m.path("meminfo"))
	for _, size := range []int{64 << 10, 128 << 10, 1 << 20} {
		const reads = 100
		before := readCalls(t)
		for range reads {
			if got := pread(t, fd, size, 0); len(got) != min(size, 70<<10) {
				t.Errorf("read of %d bytes: %d", size, len(got))
			}
		}
		// This process is the reader of the file and of /dev/fuse: two
		// calls each.
		if calls := readCalls(t) - before; calls > 3*reads {
			t.Errorf("%d reads of %d bytes: %d read(2) calls of client and server", reads, size, calls)
		}
	}
}

// readCalls returns the number of read(2) calls that this process has finished
// (man 5 proc, /proc/PID/io).
func readCalls(t *testing.T) int {
	t.Helper()
	text, err := readAll("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	var rchar, wchar, syscr int
	if _, err := fmt.Sscanf(text, "rchar: %d\nwchar: %d\nsyscr: %d\n", &rchar, &wchar, &syscr); err != nil {
		t.Fatal(err)
	}
	return syscr
}

func TestHandlePassedOnShowsTheNextCallersContent(t *testing.T) {
	m := serve(t, perUser(10), fs.ServerOptions{})
	fd := open(t, m.path("uptime"))
	if got := pread(t, fd, 6, 0); got != "user 0" {
		t.Errorf("root reads %q", got)
	}
	asUser(t, 1234, func() {
		if got := pread(t, fd, 9, 0); got != "user 1234" {
			t.Errorf("user 1234 reads %q", got)
		}
	})
}

// perUser makes n lines that name the caller's uid; of the file stat, uid times
// as many lines.
func perUser(n int) fs.Source {
	return sourceFunc(func(dst []byte, id fs.NodeID, t *fs.Turn) ([]byte, error) {
		c := t.Caller()
		lines := n
		if id == fs.NodeStat {
			lines *= int(c.UID) + 1
		}
		for i := range lines {
			dst = fmt.Appendf(dst, "user %d line %d\n", c.UID, i)
		}
		return dst, nil
	})
}

func TestSizeIsTheCallersOwnAndAgreesWithTheContent(t *testing.T) {
	// Each content is one byte longer than the one before.
	var length atomic.Int64
	src := sourceFunc(func(dst []byte, _ fs.NodeID, _ *fs.Turn) ([]byte, error) {
		return append(dst, strings.Repeat("x", int(length.Add(1))+5000)...), nil
	})
	m := serve(t, src, fs.ServerOptions{})

	// A scheduling delay between fstat and read may exceed the time that
	// the content waits, so a few tries are allowed: nearly all must agree.
	agreed := func(f func(fd int) int) {
		t.Helper()
		const tries = 50
		n := 0
		for range tries {
			fd := open(t, m.path("stat"))
			if f(fd) == len(pread(t, fd, 1<<16, 0)) {
				n++
			}
		}
		if n < tries/2 {
			t.Errorf("size and content agree %d times of %d", n, tries)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	agreed(func(fd int) int {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		return int(st.Size)
	})
	agreed(func(fd int) int {
		end, err := unix.Seek(fd, 0, unix.SEEK_END)
		if err != nil {
			t.Fatal(err)
		}
		return int(end)
	})
	// And a second read is fresh all the same.
	fd := open(t, m.path("stat"))
	if a, b := pread(t, fd, 1<<16, 0), pread(t, fd, 1<<16, 0); len(b) != len(a)+1 {
		t.Errorf("second read has %d bytes after %d", len(b), len(a))
	}
}

// TestSizeAskedByAnotherThreadLeavesRoomForTheContent opens in one thread, asks
// for the size in another and reads in a third, as Node's fs.readFile does. The
// numbers in the content have grown when it is read.
func TestSizeAskedByAnotherThreadLeavesRoomForTheContent(t *testing.T) {
	var number atomic.Int64
	src := sourceFunc(func(dst []byte, _ fs.NodeID, _ *fs.Turn) ([]byte, error) {
		row := fmt.Sprintf("cpu %d %d\n", number.Load(), number.Add(1))
		return append(dst, strings.Repeat(row, 20)...), nil
	})
	m := serve(t, src, fs.ServerOptions{})
	for range 20 {
		number.Store(9)
		fd := make(chan int)
		size := make(chan int64)
		go func() {
			runtime.LockOSThread() // and end with it: no two are the same
			fd <- open(t, m.path("stat"))
			<-fd
		}()
		f := <-fd
		go func() {
			runtime.LockOSThread()
			var st unix.Stat_t
			if err := unix.Fstat(f, &st); err != nil {
				t.Error(err)
			}
			size <- st.Size
		}()
		length := <-size
		content := pread(t, f, 1<<16, 0)
		if length != 4096 {
			t.Errorf("size %d, content of %d bytes", length, len(content))
		}
		fd <- 0
	}
}

func TestSizeAskedForWhileReadingDoesNotTearTheContent(t *testing.T) {
	src := &counter{padding: 9000}
	m := serve(t, src, fs.ServerOptions{})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd := open(t, m.path("stat"))
	first := pread(t, fd, 4096, 0)
	// A hundred contents later the number at the start is longer.
	var st unix.Stat_t
	for range 100 {
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	if got, want := first+pread(t, fd, 1<<16, 4096), "1 "+strings.Repeat("a", 9000)+"\n"; got != want {
		t.Errorf("%d bytes from %.5q, want %d from %.5q", len(got), got, len(want), want)
	}
}

func TestSourceErrorsReachTheCaller(t *testing.T) {
	var result atomic.Value
	src := sourceFunc(func([]byte, fs.NodeID, *fs.Turn) ([]byte, error) {
		return nil, result.Load().(error)
	})
	m := serve(t, src, fs.ServerOptions{})
	fd := open(t, m.path("uptime"))
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{fmt.Errorf("read cpu.stat: %w", unix.ENODEV), unix.ENODEV},
		{errors.New("no errno"), unix.EIO},
		{fmt.Errorf("wrapped: %w", syscall.Errno(0)), unix.EIO},
		{fmt.Errorf("wrapped: %w", syscall.Errno(5000)), unix.EIO},
	} {
		result.Store(fmt.Errorf("source: %w", c.err))
		if _, err := unix.Pread(fd, make([]byte, 10), 0); err != c.want {
			t.Errorf("source says %v: read says %v, want %v", c.err, err, c.want)
		}
	}
}

func TestPanicInSourceIsEIOAndTheServerGoesOn(t *testing.T) {
	var calls atomic.Int64
	src := sourceFunc(func(dst []byte, id fs.NodeID, t *fs.Turn) ([]byte, error) {
		calls.Add(1)
		switch id {
		case fs.NodeUptime:
			panic("at once")
		case fs.NodeMeminfo:
			if err := t.Block(0); err != nil {
				return dst, err
			}
			panic("later")
		}
		return append(dst, "fine"...), nil
	})
	log := newLog()
	m := serve(t, src, fs.ServerOptions{Log: log.logger(), Workers: 1})
	for range 3 {
		for _, name := range []string{"uptime", "meminfo"} {
			if _, err := readAll(m.path(name)); err != unix.EIO {
				t.Errorf("%s: %v, want EIO", name, err)
			}
		}
		if got, err := readAll(m.path("stat")); got != "fine" {
			t.Errorf("stat: %q %v", got, err)
		}
	}
	for _, want := range []string{"at once", "later", "read_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}
