// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// faulty is a Server of a real mount whose system calls on /dev/fuse can be made to fail.
type faulty struct {
	*Server
	dir   string
	log   *lines
	ended chan error
}

func serveFaulty(t *testing.T, src Source, fail func(*sysCalls)) *faulty {
	t.Helper()
	f := &faulty{dir: t.TempDir(), log: new(lines), ended: make(chan error, 1)}
	conn, err := Mount(f.dir, MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = NewTestServer(conn, src, ServerOptions{Log: slog.New(slog.NewTextHandler(f.log, nil))})
	fail(&f.sys)
	go func() { f.ended <- f.Serve() }()
	t.Cleanup(func() {
		if err := Unmount(f.dir); err != nil {
			t.Error(err)
		}
		if err := <-f.ended; err != nil {
			t.Error(err)
		}
		conn.Close()
	})
	return f
}

// lines counts those of a log.
type lines struct{ atomic.Int64 }

func (l *lines) Write(b []byte) (int, error) {
	l.Add(1)
	return len(b), nil
}

// cat reads a file of the mount.
func (f *faulty) cat(name string) (string, error) {
	fd, err := unix.Open(f.dir+"/proc/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 100)
	n, err := unix.Read(fd, b)
	return string(b[:max(n, 0)]), err
}

// every returns a function that is true for each nth call.
func every(n int64) func() bool {
	var calls atomic.Int64
	return func() bool { return calls.Add(1)%n == 0 }
}

// TestErrorsOfReadDoNotEndTheServer injects what read(2) of /dev/fuse may return while the
// connection is there.
func TestErrorsOfReadDoNotEndTheServer(t *testing.T) {
	for _, errno := range []syscall.Errno{
		unix.ENOMEM, unix.EFAULT, unix.EIO, unix.EINVAL, unix.EINTR, unix.EAGAIN, unix.ENOENT, unix.EPERM, unix.ENOBUFS,
		unix.ECONNABORTED, // once is the last request before an unmount
	} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			var failures atomic.Uint64
			f := serveFaulty(t, content("content"), func(sys *sysCalls) {
				due, read := every(3), sys.read
				sys.read = func(fd int, b []byte) (int, syscall.Errno) {
					if due() {
						failures.Add(1)
						return 0, errno
					}
					return read(fd, b)
				}
			})
			for range 20 {
				if got, err := f.cat("uptime"); got != "content" {
					t.Fatalf("%q, %v", got, err)
				}
			}
			if failures.Load() < 10 {
				t.Fatalf("%d failures", failures.Load())
			}
			switch errno {
			case unix.EINTR, unix.EAGAIN, unix.ENOENT, unix.ECONNABORTED:
				return
			}
			// The last one may not be counted yet.
			if n := f.counters.readErrors.Load(); n+1 < failures.Load() {
				t.Errorf("%d of %d failures are counted", n, failures.Load())
			}
			if n := uint64(f.log.Load()); n+1 < failures.Load() {
				t.Errorf("%d of %d failures are logged", n, failures.Load())
			}
		})
	}
}

// TestErrorsOfWriteLeaveNoCallerHanging: a reply that fails for a time is repeated, and
// one that fails for good becomes EIO.
func TestErrorsOfWriteLeaveNoCallerHanging(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.ENOMEM, unix.EINTR, unix.EAGAIN, unix.EFAULT} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			f := serveFaulty(t, content("content"), func(sys *sysCalls) {
				due, write := every(3), sys.write
				sys.write = func(fd int, b []byte) syscall.Errno {
					if due() {
						return errno
					}
					return write(fd, b)
				}
			})
			for range 10 {
				if got, err := f.cat("uptime"); got != "content" {
					t.Fatalf("%q, %v", got, err)
				}
			}
			if f.counters.writeErrors.Load() == 0 {
				t.Error("no failure is counted")
			}
		})
	}
	for _, errno := range []syscall.Errno{unix.ENOMEM, unix.EINVAL} {
		f := serveFaulty(t, content("content"), func(sys *sysCalls) {
			write := sys.write
			sys.write = func(fd int, b []byte) syscall.Errno {
				if bytes.HasSuffix(b, []byte("content")) {
					return errno
				}
				return write(fd, b)
			}
		})
		for range 3 {
			if got, err := f.cat("uptime"); err != unix.EIO {
				t.Errorf("%v for good: %q, %v, want EIO", errno, got, err)
			}
		}
	}
}

// panicking is a Source that panics at one step of a read of uptime.
type panicking struct{ step atomic.Int32 }

var steps = []string{"at once", "when the owner is asked for", "after Block", "in the middle of the text"}

func (p *panicking) at(step int32) {
	if p.step.Load() == step {
		panic(steps[step])
	}
}

func (p *panicking) Owner(Caller) uint64 {
	p.at(1)
	return 1
}

func (p *panicking) Append(dst []byte, n NodeID, t *Turn) ([]byte, error) {
	if n != NodeUptime {
		return append(dst, "content"...), nil
	}
	p.at(0)
	if err := t.Block(0); err != nil {
		return dst, err
	}
	p.at(2)
	dst = append(dst, "con"...)
	p.at(3)
	return append(dst, "tent"...), nil
}

// TestAPanicAtAnyStepLeavesNothingBehind: the reader gets EIO, and no lock, turn or place
// among the workers is left.
func TestAPanicAtAnyStepLeavesNothingBehind(t *testing.T) {
	src := &panicking{}
	f := serveFaulty(t, src, func(*sysCalls) {})
	const times = DefaultWorkers + 1 // more than there are places
	for step, name := range steps {
		src.step.Store(int32(step))
		for range times {
			if got, err := f.cat("uptime"); err != unix.EIO {
				t.Fatalf("%s: %q, %v, want EIO", name, got, err)
			}
		}
		src.step.Store(-1)
		for _, file := range []string{"uptime", "stat"} {
			if got, err := f.cat(file); got != "content" || err != nil {
				t.Errorf("%s: then %s is %q, %v", name, file, got, err)
			}
		}
		if n := f.Panics(); n != uint64(step+1)*times {
			t.Errorf("%s: %d panics are counted, want %d", name, n, (step+1)*times)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		f.waits.mu.Lock()
		left := len(f.waits.pending) + f.waits.work.running + len(f.waits.work.owners)
		f.waits.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("something is left: %+v", f.waits)
		}
	}
}

// TestAPanicElsewhereIsACrash: what a panic outside of making content leaves behind is
// not known.
func TestAPanicElsewhereIsACrash(t *testing.T) {
	s, turn := deadServer(devNull(t), content("x"))
	boom := errors.New("boom")
	s.operations[opStatfs].execute = func(*Server, *Turn) (int, error) { panic(boom) }
	defer func() {
		if p := recover(); p != boom {
			t.Errorf("recovered %v", p)
		}
	}()
	execute(s, turn, wire(header(opStatfs, NodeRoot), ""))
}
