// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// delayer is a Source that delays the reads of meminfo, as those of one owner.
type delayer struct {
	delay time.Duration
	calls atomic.Int64
}

const delayedOwner = 1

func (*delayer) Owner(fs.Caller) uint64 { return delayedOwner }

func (d *delayer) Append(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error) {
	switch n {
	case fs.NodeMeminfo:
		// As for a container that was not known: it has a place to work by now.
		if err := t.Block(delayedOwner); err != nil {
			return dst, err
		}
		d.calls.Add(1)
		if err := t.Delay(delayedOwner, d.delay); err != nil {
			return dst, err
		}
	case fs.NodeStat: // work of the same owner, which takes a place
		if err := t.Block(delayedOwner); err != nil {
			return dst, err
		}
	}
	return append(dst, "content\n"...), nil
}

// TestADelayedReadHoldsUpNobody: not the reader of the connection, and not the work of its
// own container.
func TestADelayedReadHoldsUpNobody(t *testing.T) {
	src := &delayer{delay: 2 * time.Second}
	m := serve(t, src, fs.ServerOptions{Workers: 1})
	const n = 100
	begin := time.Now()
	results := readers(n, m.path("meminfo"))
	eventually(t, "all of them are read", func() bool { return src.calls.Load() == n })
	for _, file := range []string{"uptime", "stat"} {
		if got, err := readAll(m.path(file)); got != "content\n" {
			t.Fatalf("%s: %q %v", file, got, err)
		}
	}
	if waiting := m.srv.Stats().Waiting; waiting != n && time.Since(begin) < src.delay {
		t.Errorf("%d wait, want %d", waiting, n)
	}
	for range n {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(begin); took < src.delay {
		t.Errorf("delayed for %s, want %s", took, src.delay)
	}
	// A delay is nothing that an operator has to look for.
	if st := m.srv.Stats(); st.Slow >= n || st.Waiting != 0 {
		t.Errorf("%d slow requests, %d wait", st.Slow, st.Waiting)
	}
}

// TestASignalEndsADelay: the caller gets what it has asked for if the delay was nearly over,
// else EINTR.
func TestASignalEndsADelay(t *testing.T) {
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	for _, c := range []struct {
		delay time.Duration
		want  error
	}{{time.Hour, unix.EINTR}, {900 * time.Millisecond, nil}} {
		src := &delayer{delay: c.delay}
		m := serve(t, src, fs.ServerOptions{})
		tid, result := stuckReader(m.path("meminfo"))
		eventually(t, "the read is on its way", func() bool { return src.calls.Load() == 1 })
		if err := unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-result:
			if !errors.Is(err, c.want) {
				t.Errorf("delay of %s: %v, want %v", c.delay, err, c.want)
			}
		case <-time.After(deadline):
			t.Fatal("the signal does not end the delay")
		}
	}
}

// TestKilledCallerDiesDuringADelay, and fstat(2) gets a bound.
func TestKilledCallerDiesDuringADelay(t *testing.T) {
	src := &delayer{delay: time.Hour}
	m := serve(t, src, fs.ServerOptions{})
	cmd := exec.Command("cat", m.path("meminfo"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the read is on its way", func() bool { return src.calls.Load() == 1 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(deadline):
		t.Fatal("the caller hangs in its read")
	}
	eventually(t, "nothing waits", func() bool { return m.srv.Stats().Waiting == 0 })
}

// TestSeekingToTheEndIsNotDelayed: the kernel holds the lock of the inode, which all
// containers share.
func TestSeekingToTheEndIsNotDelayed(t *testing.T) {
	m := serve(t, &delayer{delay: time.Hour}, fs.ServerOptions{})
	fd := open(t, m.path("meminfo"))
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Error(err)
	}
}

// TestDelayedReadsOfOneOwnerAreBounded: further ones are refused. When the connection ends,
// so do all waits.
func TestDelayedReadsOfOneOwnerAreBounded(t *testing.T) {
	src := &delayer{delay: time.Hour}
	m := serve(t, src, fs.ServerOptions{})
	const n, most = 600, 512
	results := readers(n, m.path("meminfo"))
	eventually(t, "those beyond the bound are refused", func() bool {
		st := m.srv.Stats()
		return slices.Contains(st.Refusals, fs.RefusalCount{Reason: "queue", Errno: "EAGAIN", N: n - most}) && st.Waiting == most
	})
	for range n - most {
		if err := <-results; err != unix.EAGAIN {
			t.Fatalf("%v, want EAGAIN", err)
		}
	}
	abortConnection(t, m.dir)
	if err := m.wait(t); !errors.Is(err, fs.ErrAborted) {
		t.Errorf("Serve: %v", err)
	}
	for range most {
		if err := <-results; err == nil {
			t.Fatal("a read has succeeded")
		}
	}
}

// TestADelayedTurnWaitsForItsPlaceToWork when its delay is over, as any other: with one worker
// one is at work at a time, also of turns that were at work before their delay.
func TestADelayedTurnWaitsForItsPlaceToWork(t *testing.T) {
	var running, most, early atomic.Int64
	src := sourceFunc(func(dst []byte, n fs.NodeID, turn *fs.Turn) ([]byte, error) {
		if n == fs.NodeStat {
			if err := turn.Block(delayedOwner); err != nil {
				return dst, err
			}
			early.Add(1)
		}
		if err := turn.Delay(delayedOwner, 50*time.Millisecond); err != nil {
			return dst, err
		}
		if err := turn.Block(delayedOwner); err != nil {
			return dst, err
		}
		now := running.Add(1)
		for m := most.Load(); now > m && !most.CompareAndSwap(m, now); {
			m = most.Load()
		}
		time.Sleep(5 * time.Millisecond)
		running.Add(-1)
		return append(dst, "content\n"...), nil
	})
	m := serve(t, src, fs.ServerOptions{Workers: 1})
	for _, file := range []string{"meminfo", "stat"} {
		const n = 20
		results := readers(n, m.path(file))
		for range n {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
	}
	if most.Load() != 1 || early.Load() != 20 {
		t.Errorf("%d were at work at once, want 1; %d were before their delay", most.Load(), early.Load())
	}
}
