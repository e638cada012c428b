// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
)

// TestMain makes this binary a worker where a Holder of a test starts it as one.
func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(workerEnv); !ok {
		os.Exit(m.Run())
	}
	w, err := NewWorker()
	if err == nil {
		err = w.Ready()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop := make(chan struct{})
	w.Serving(slog.New(slog.DiscardHandler), Orders{Stop: func() { close(stop) }, Ping: func() error { return nil }, Toggle: func() {}})
	<-stop
	os.Exit(0)
}

// wantOpenFiles waits until no more than so many descriptors are open: that of a process
// lasts until it is reaped.
func wantOpenFiles(t *testing.T, want int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); openFiles(t) > want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, were %d", openFiles(t), want)
		}
	}
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// faults makes the first calls of a function fail.
type faults struct {
	err  error
	left int
}

func (f *faults) fail() error {
	if f.left == 0 {
		return nil
	}
	f.left--
	return f.err
}

// faultyCalls returns a system in which the named call fails with err so many times.
func faultyCalls(call string, err error, times int) (system, *faults) {
	sys, f := realSystem(), &faults{err, times}
	real := sys
	switch call {
	case "socketpair":
		sys.pair = func() (*fdconn.Conn, *os.File, error) {
			if err := f.fail(); err != nil {
				return nil, nil, err
			}
			return real.pair()
		}
	case "dup":
		sys.dup = func(fd int) (int, error) {
			if err := f.fail(); err != nil {
				return -1, err
			}
			return real.dup(fd)
		}
	case "start":
		sys.start = func(cmd *exec.Cmd) error {
			if err := f.fail(); err != nil {
				return err
			}
			return real.start(cmd)
		}
	}
	return sys, f
}

// TestAHolderOutlivesWantOfResources: no process, memory or descriptor is left for the
// first attempts at a worker.
func TestAHolderOutlivesWantOfResources(t *testing.T) {
	for _, c := range []struct {
		call string
		err  error
	}{{"start", unix.EAGAIN}, {"start", unix.ENOMEM}, {"start", unix.EMFILE}, {"socketpair", unix.EMFILE}, {"socketpair", unix.ENOBUFS}} {
		t.Run(fmt.Sprintf("%s %v", c.call, c.err), func(t *testing.T) {
			before := openFiles(t)
			stop, serving := make(chan os.Signal), make(chan int)
			h := NewHolder(Config{
				Log:       slog.New(slog.DiscardHandler),
				Output:    io.Discard,
				MaxOutage: time.Minute,
				Abort:     func() { t.Error("aborted") },
				Probe:     func(time.Duration) error { return nil },
				Serving:   func(worker int) { serving <- worker },
				Stop:      func() error { return nil },
			}, map[string]*os.File{}, Signals{Stop: stop})
			var f *faults
			h.sys, f = faultyCalls(c.call, c.err, 4)
			ended := make(chan error)
			go func() { ended <- h.Run(nil) }()
			select {
			case <-serving:
			case <-time.After(time.Minute):
				t.Fatal("no worker")
			}
			if f.left != 0 {
				t.Errorf("%d faults are left", f.left)
			}
			stop <- unix.SIGTERM
			if err := <-ended; err != nil {
				t.Error(err)
			}
			wantOpenFiles(t, before+1) // the workers' stderr
			h.stderr().Close()
		})
	}
}

// TestAnAdoptedWorkerIsNotGivenUpForWantOfResources: there would be two servers.
func TestAnAdoptedWorkerIsNotGivenUpForWantOfResources(t *testing.T) {
	sys := realSystem()
	opens, polls, slept := &faults{unix.EMFILE, 3}, &faults{unix.ENOMEM, 3}, 0
	real := sys
	sys.pidfdOpen = func(pid int) (int, error) {
		if err := opens.fail(); err != nil {
			return -1, err
		}
		return real.pidfdOpen(pid)
	}
	sys.poll = func(fd int) (int, error) {
		if err := polls.fail(); err != nil {
			return -1, err
		}
		return real.poll(fd)
	}
	sys.sleep = func(time.Duration) { slept++ }
	in, child, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command("cat")
	cmd.Stdin = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan exit)
	go func() {
		a := &Adopted{worker: cmd.Process.Pid, sys: sys}
		ended <- a.wait()
	}()
	select {
	case how := <-ended:
		t.Errorf("it is taken for dead: %q", how.text)
		child.Close()
	case <-time.After(300 * time.Millisecond):
		child.Close()
		if how := <-ended; how.text != "exit status 0" || slept != 6 {
			t.Errorf("%q, after %d sleeps", how.text, slept)
		}
	}
}

// TestAWorkerStartsHoldersWithAGrowingWait: some attempts fail, and the holders that
// begin end at once. The wait grows up to a bound, and no attempt is the last.
func TestAWorkerStartsHoldersWithAGrowingWait(t *testing.T) {
	for _, c := range []struct {
		call string
		err  error
	}{{"start", unix.EAGAIN}, {"start", unix.ENOMEM}, {"socketpair", unix.EMFILE}, {"dup", unix.EMFILE}} {
		t.Run(fmt.Sprintf("%s %v", c.call, c.err), func(t *testing.T) {
			before := openFiles(t)
			sys, f := faultyCalls(c.call, c.err, 5)
			holder, theirs, err := sys.pair()
			for err != nil {
				holder, theirs, err = sys.pair()
			}
			f.left = 5
			clock := time.Unix(1e9, 0)
			var waits []time.Duration
			w := &Worker{Files: map[string]int{"a": 0}, Log: 2, unmanaged: true}
			sys.now = func() time.Time { return clock }
			sys.sleep = func(d time.Duration) {
				waits = append(waits, d)
				if clock = clock.Add(d); len(waits) == 12 {
					w.stopping.Store(true)
				}
			}
			started, real := 0, sys.start
			sys.start = func(cmd *exec.Cmd) error {
				started++
				cmd.Path, cmd.Args = "/bin/true", []string{"true"}
				return real(cmd)
			}
			w.sys = sys
			own, err := fdconn.New(theirs)
			if err != nil {
				t.Fatal(err)
			}
			w.control.Store(own)
			holder.Close() // the holder dies
			stopped := make(chan struct{})
			w.run(slog.New(slog.DiscardHandler), Orders{Stop: func() { close(stopped) }})
			<-stopped
			var want []time.Duration
			for _, ms := range []int64{0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000} {
				want = append(want, time.Duration(ms*1e6))
			}
			if !slices.Equal(waits, want) || f.left != 0 {
				t.Errorf("waits %v, want %v; %d faults left", waits, want, f.left)
			}
			w.control.Load().Close()
			wantOpenFiles(t, before)
		})
	}
}
