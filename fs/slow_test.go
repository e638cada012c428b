// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// gate is a Source whose file meminfo blocks until the gate is opened; the other
// files never block. Each thread is an owner.
type gate struct {
	open    chan struct{}
	calls   atomic.Int64 // for meminfo
	running atomic.Int64 // those that are at work
	most    atomic.Int64 // the most of them at once
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (*gate) Owner(c fs.Caller) uint64 { return uint64(c.PID) }

func (g *gate) Append(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error) {
	if n == fs.NodeMeminfo {
		g.calls.Add(1)
		if err := t.Block(0); err != nil {
			return dst, err
		}
		running := g.running.Add(1)
		for most := g.most.Load(); running > most && !g.most.CompareAndSwap(most, running); {
			most = g.most.Load()
		}
		<-g.open
		g.running.Add(-1)
	}
	return append(dst, "content\n"...), nil
}

// readers starts n threads that each read path once, and returns their results.
func readers(n int, path string) <-chan error {
	results := make(chan error, n)
	for range n {
		go func() {
			got, err := readAll(path)
			if err == nil && got != "content\n" {
				err = fmt.Errorf("read %q", got)
			}
			results <- err
		}()
	}
	return results
}

func TestSlowReadsDoNotHoldUpOthers(t *testing.T) {
	g := newGate()
	m := serve(t, g, fs.ServerOptions{})
	results := readers(10, m.path("meminfo"))
	eventually(t, "10 slow reads run", func() bool { return g.running.Load() == 10 })
	// All of this happens while the slow reads are stuck.
	for range 200 {
		if got, err := readAll(m.path("uptime")); got != "content\n" {
			t.Fatalf("%q %v", got, err)
		}
	}
	close(g.open)
	for range 10 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// A fast read may cost more while others are stuck, but not by the magnitude of
// their delay. The best of some rounds counts: other work runs on the machine.
func TestFastReadsCostLittleMoreWhileSlowOnesAreStuck(t *testing.T) {
	const n = 500
	quiet, busy := int64(math.MaxInt64), int64(math.MaxInt64)
	for range 5 {
		g := newGate()
		m := serve(t, g, fs.ServerOptions{})
		quiet = min(quiet, helperNanoseconds(t, "cycle", m.path("uptime"), n))
		results := readers(4, m.path("meminfo"))
		eventually(t, "4 slow reads run", func() bool { return g.running.Load() == 4 })
		busy = min(busy, helperNanoseconds(t, "cycle", m.path("uptime"), n))
		close(g.open)
		for range 4 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("open, read, read, close: %d ns, with 4 slow reads %d ns", quiet, busy)
	if busy > 10*quiet {
		t.Errorf("open, read, read, close takes %d ns instead of %d", busy, quiet)
	}
}

func TestSlowRequestsBeyondTheWorkersQueueAndAllAreAnswered(t *testing.T) {
	const workers = 8
	g := newGate()
	m := serve(t, g, fs.ServerOptions{Workers: workers})
	results := readers(workers+100, m.path("meminfo"))
	eventually(t, "all of them are read", func() bool { return g.calls.Load() == workers+100 })
	if got, err := readAll(m.path("uptime")); got != "content\n" {
		t.Errorf("meanwhile: %q %v", got, err)
	}
	close(g.open)
	for range workers + 100 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if most := g.most.Load(); most != workers {
		t.Errorf("%d slow requests at once, want %d", most, workers)
	}
	// And the workers have ended: the next slow read is served too.
	if got, err := readAll(m.path("meminfo")); got != "content\n" {
		t.Errorf("afterwards: %q %v", got, err)
	}
}

// owned is a Source with owners.
type owned struct {
	owner func(fs.Caller) uint64
	fs.Source
}

func (o owned) Owner(c fs.Caller) uint64 { return o.owner(c) }

// One owner's slow requests, however many and however slow, leave workers for those
// of others.
func TestOwnersShareTheWorkers(t *testing.T) {
	const workers, share = 16, 2
	const ours, theirs = 1, 2
	owner := func(c fs.Caller) uint64 {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", c.PID)); err == nil {
			return ours
		}
		return theirs
	}
	g := newGate()
	src := owned{owner, sourceFunc(func(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error) {
		if owner(t.Caller()) == ours {
			return g.Append(dst, n, t)
		}
		if err := t.Block(theirs); err != nil {
			return dst, err
		}
		time.Sleep(time.Millisecond)
		return append(dst, "content\n"...), nil
	})}
	m := serve(t, src, fs.ServerOptions{Workers: workers})
	results := readers(100, m.path("meminfo"))
	eventually(t, "100 slow reads wait", func() bool { return g.calls.Load() == 100 })
	if running := g.running.Load(); running != share {
		t.Errorf("one owner has %d workers, want %d", running, share)
	}
	helperNanoseconds(t, "cycle", m.path("meminfo"), 20)
	close(g.open)
	for range 100 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if most := g.most.Load(); most != share {
		t.Errorf("one owner had %d workers, want %d", most, share)
	}
}

func TestSlowGetattrIsAnsweredToo(t *testing.T) {
	src := sourceFunc(func(dst []byte, _ fs.NodeID, t *fs.Turn) ([]byte, error) {
		if err := t.Block(0); err != nil {
			return dst, err
		}
		return append(dst, "12345"...), nil
	})
	m := serve(t, src, fs.ServerOptions{Workers: 1})
	for range 20 {
		var st unix.Stat_t
		if err := unix.Stat(m.path("stat"), &st); err != nil || st.Size != 4096 {
			t.Fatalf("size %d, %v", st.Size, err)
		}
	}
}

// stuckReader reads path on a thread of its own, whose id it returns.
func stuckReader(path string) (tid int, result <-chan error) {
	ids := make(chan int)
	results := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		ids <- unix.Gettid()
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 100))
			unix.Close(fd)
		}
		results <- err
	}()
	return <-ids, results
}

// TestSignalLeavesAReadThatIsSoonDone guards programs with SA_RESTART handlers.
func TestSignalLeavesAReadThatIsSoonDone(t *testing.T) {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	g := newGate()
	m := serve(t, g, fs.ServerOptions{Log: newLog().logger()})
	tid, result := stuckReader(m.path("meminfo"))
	eventually(t, "the read is on its way", func() bool { return g.calls.Load() == 1 })
	if err := unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	// The thread handles its signal only when the read is over.
	time.Sleep(20 * time.Millisecond)
	close(g.open)
	if err := <-result; err != nil {
		t.Errorf("the read: %v", err)
	}
}

func TestSignalInterruptsSlowAndQueuedReads(t *testing.T) {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	g := newGate()
	log := newLog()
	m := serve(t, g, fs.ServerOptions{Workers: 1, Log: log.logger()})
	// The first one runs, the second one waits in the queue.
	for i := range 2 {
		tid, result := stuckReader(m.path("meminfo"))
		eventually(t, "the read is on its way", func() bool { return g.calls.Load() == int64(i+1) })
		select {
		case err := <-result:
			t.Fatalf("the read ended by itself: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if err := unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-result:
			if err != unix.EINTR {
				t.Errorf("read %d: %v, want EINTR", i, err)
			}
		case <-time.After(deadline):
			t.Fatal("the signal does not interrupt the read")
		}
	}
	close(g.open)
	eventually(t, "the work is over", func() bool { return g.running.Load() == 0 })
	for range 10 {
		if got, err := readAll(m.path("meminfo")); got != "content\n" {
			t.Errorf("afterwards: %q %v", got, err)
		}
	}
	if g.calls.Load() != 12 || log.String() != "" {
		t.Errorf("%d reads, want 12; log: %s", g.calls.Load(), log.String())
	}
}

// TestSignalLeavesFstatABound: no program expects fstat(2) to be interrupted.
func TestSignalLeavesFstatABound(t *testing.T) {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	g := newGate()
	defer close(g.open)
	m := serve(t, g, fs.ServerOptions{})
	tids, result := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(m.path("meminfo"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		tids <- unix.Gettid()
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(fd, &st)
			unix.Close(fd)
		}
		if err == nil && st.Size != 4096 {
			err = fmt.Errorf("a length of %d", st.Size)
		}
		result <- err
	}()
	tid := <-tids
	eventually(t, "the fstat is on its way", func() bool { return g.calls.Load() == 1 })
	if err := unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-result:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Fatal("the signal does not interrupt it")
	}
}

func TestKilledCallerDiesDuringASlowRead(t *testing.T) {
	g := newGate()
	m := serve(t, g, fs.ServerOptions{})
	cmd := exec.Command("cat", m.path("meminfo"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the read is on its way", func() bool { return g.running.Load() == 1 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	select {
	case <-gone:
	case <-time.After(deadline):
		t.Error("the caller hangs in its read")
	}
	// The handle is released while the work for it goes on. Others take its
	// place, and the late result must not land in them.
	fds := make([]int, 10)
	for i := range fds {
		fds[i] = open(t, m.path("uptime"))
	}
	close(g.open)
	eventually(t, "the work is over", func() bool { return g.running.Load() == 0 })
	for _, fd := range fds {
		if got := pread(t, fd, 100, 0); !strings.HasPrefix(got, "content") {
			t.Errorf("read %q", got)
		}
	}
}
