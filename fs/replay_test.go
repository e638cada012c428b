// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vprocfs/fs/journal"
)

// kernel is the other end of a connection that is none: what is written to it is read by
// the server, and replies come back.
type kernel struct {
	fd     int
	server *Server
	done   chan struct{}
}

// serveKernel serves the journal j of a process that crashed, or did not.
func serveKernel(t *testing.T, j *journal.Journal, src Source, crashed bool) *kernel {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{fd: ends[0], done: make(chan struct{})}
	k.server = NewTestServer(NewConn(ends[1]), src, ServerOptions{Journal: j, Crashed: crashed})
	go func() {
		defer close(k.done)
		if err := k.server.Serve(); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		k.server.Stop()
		unix.Close(ends[0])
		<-k.done
		unix.Close(ends[1])
		j.Close()
	})
	return k
}

// answer returns the next reply.
func (k *kernel) answer(t *testing.T) (unique uint64, errno unix.Errno) {
	t.Helper()
	if err := unix.SetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	b := make([]uint64, 1<<10)
	_, err := unix.Read(k.fd, unsafe.Slice((*byte)(unsafe.Pointer(&b[0])), len(b)*8))
	for err == unix.EINTR {
		_, err = unix.Read(k.fd, unsafe.Slice((*byte)(unsafe.Pointer(&b[0])), len(b)*8))
	}
	if err != nil {
		t.Fatalf("no reply: %v", err)
	}
	h := (*fuse.OutHeader)(unsafe.Pointer(&b[0]))
	return h.Unique, unix.Errno(-h.Status)
}

// readRequest is a READ of a file by the thread pid.
func readRequest(n NodeID, unique uint64, pid uint32) []byte {
	h := fuse.InHeader{Opcode: opRead, Unique: unique, NodeId: uint64(n), Caller: fuse.Caller{Pid: pid}}
	return wire(fuse.ReadIn{InHeader: h, Size: 100, ReadFlags: fuse.READ_LOCKOWNER}, "")
}

// slowly is a Source of files that take a time each, but for uptime. The caller's thread
// id is the owner.
type slowly struct {
	time time.Duration

	mu      sync.Mutex
	callers []int // in the order of their turns
	running atomic.Int32
	most    atomic.Int32
}

func (s *slowly) Owner(c Caller) uint64 { return uint64(c.PID) }

func (s *slowly) Append(dst []byte, n NodeID, t *Turn) ([]byte, error) {
	if n == NodeUptime {
		return append(dst, "fast"...), nil
	}
	if err := t.Block(0); err != nil {
		return dst, err
	}
	if n := s.running.Add(1); n > s.most.Load() {
		s.most.Store(n)
	}
	s.mu.Lock()
	s.callers = append(s.callers, t.Caller().PID)
	s.mu.Unlock()
	time.Sleep(s.time)
	s.running.Add(-1)
	return append(dst, "slow"...), nil
}

// TestReplayKeepsNobodyWaiting: new requests are answered while what a process that
// crashed has left is worked on, and that is worked on in parallel, by the shares of the
// owners.
func TestReplayKeepsNobodyWaiting(t *testing.T) {
	const requests = 300
	for _, crashed := range []bool{false, true} {
		j := newTestJournal(t)
		for i := range uint64(requests) {
			owner := uint32(1)
			if i >= requests/2 {
				owner = uint32(i)
			}
			note(t, j, readRequest(NodeStat, 100+2*i, owner))
		}
		j = pass(t, j)
		src := &slowly{time: 100 * time.Millisecond}
		start := time.Now()
		k := serveKernel(t, j, src, crashed)
		if _, err := unix.Write(k.fd, readRequest(NodeUptime, 2, 1)); err != nil {
			t.Fatal(err)
		}
		var fast time.Duration
		seen := make(map[uint64]bool)
		for range requests + 1 {
			unique, errno := k.answer(t)
			if errno != 0 || seen[unique] {
				t.Fatalf("request %d: %v, answered twice: %v", unique, errno, seen[unique])
			}
			seen[unique] = true
			if unique == 2 {
				fast = time.Since(start)
			}
		}
		all := time.Since(start)
		t.Logf("crashed %v: a new request is answered after %v, all old ones after %v", crashed, fast, all)
		// One after the other they take 30 s.
		if fast > 3*time.Second || all > 15*time.Second {
			t.Errorf("crashed %v: a new request is answered after %v, all old ones after %v", crashed, fast, all)
		}
		if most := src.most.Load(); most > DefaultWorkers || most < 20 {
			t.Errorf("crashed %v: %d at once", crashed, most)
		}
	}
}

// TestSuspectsAreTriedAlone: but new requests do not wait for them.
func TestSuspectsAreTriedAlone(t *testing.T) {
	j := newTestJournal(t)
	for i := range uint32(5) {
		note(t, j, readRequest(NodeStat, uint64(100+2*i), i+1))
	}
	// A process that takes them up, and crashes.
	j = pass(t, j)
	j.TakeUp(true)
	note(t, j, readRequest(NodeStat, 200, 9))
	j = pass(t, j)
	src := &slowly{time: suspectTime / 5}
	k := serveKernel(t, j, src, true)
	if _, err := unix.Write(k.fd, readRequest(NodeUptime, 2, 1)); err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	for i := range 7 {
		unique, errno := k.answer(t)
		switch {
		case errno != 0:
			t.Errorf("request %d: %v", unique, errno)
		case unique == 2 && i > 3:
			t.Error("a new request waits for the suspects")
		case unique >= 100 && unique < 200 && unique < last:
			t.Errorf("suspect %d is tried after %d", unique, last)
		case unique >= 100 && unique < 200:
			last = unique
		}
	}
	if most := src.most.Load(); most > 2 { // the new one and a suspect
		t.Errorf("%d suspects at once", most)
	}
}

// TestASuspectThatHangsKeepsNoOtherWaiting: the next one begins after a time.
func TestASuspectThatHangsKeepsNoOtherWaiting(t *testing.T) {
	j := newTestJournal(t)
	for i := range uint32(10) {
		note(t, j, readRequest(NodeStat, uint64(100+2*i), i+1))
	}
	j = pass(t, j)
	j.TakeUp(true)
	j = pass(t, j)
	src := &slowly{time: 2 * time.Second}
	start := time.Now()
	k := serveKernel(t, j, src, true)
	for range 10 {
		if unique, errno := k.answer(t); errno != 0 {
			t.Errorf("request %d: %v", unique, errno)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("ten that take 2 s each took %v", took)
	}
}

// TestASuspectCanBeInterrupted before it is tried.
func TestASuspectCanBeInterrupted(t *testing.T) {
	j := newTestJournal(t)
	for i := range uint32(20) {
		note(t, j, readRequest(NodeStat, uint64(100+2*i), i+1))
	}
	j = pass(t, j)
	j.TakeUp(true)
	j = pass(t, j)
	k := serveKernel(t, j, &slowly{time: time.Minute / 20}, true)
	h := fuse.InHeader{Opcode: opInterrupt, Unique: 3}
	if _, err := unix.Write(k.fd, wire(fuse.InterruptIn{InHeader: h, Unique: 138}, "")); err != nil {
		t.Fatal(err)
	}
	if unique, errno := k.answer(t); unique != 138 || errno != unix.EINTR {
		t.Errorf("the first answer is to %d: %v", unique, errno)
	}
	for range 19 {
		if unique, errno := k.answer(t); errno != 0 || unique == 138 {
			t.Errorf("request %d: %v", unique, errno)
		}
	}
}
