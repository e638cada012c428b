// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// content is a Source of the same content for every file and caller.
type content string

func (s content) Append(dst []byte, _ NodeID, _ *Turn) ([]byte, error) {
	return append(dst, s...), nil
}

func (content) Owner(Caller) uint64 { return 0 }

// deadServer is a server without a connection: requests are given to execute, and
// replies go to fd.
func deadServer(fd int, src Source) (*Server, *Turn) {
	s := NewTestServer(NewConn(fd), src, ServerOptions{})
	return s, newTurn(s)
}

// execute serves the request b as the reader does. It reports whether the role of the
// reader was handed on.
func execute(s *Server, t *Turn, b []byte) (handedOn bool) {
	t.start(s.journal.Received(copy(s.journal.Slot(), b)))
	s.serve(t)
	return t.blocked
}

func devNull(t testing.TB) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// wire returns the bytes of a request; its Length is set.
func wire[T wireStruct](v T, name string) []byte {
	size := int(unsafe.Sizeof(v))
	words := make([]uint64, (size+len(name)+8)/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size+len(name))
	*(*T)(unsafe.Pointer(&b[0])) = v
	copy(b[size:], name)
	(*fuse.InHeader)(unsafe.Pointer(&b[0])).Length = uint32(len(b))
	return b
}

func header(op uint32, node NodeID) fuse.InHeader {
	return fuse.InHeader{Opcode: op, Unique: 2, NodeId: uint64(node), Caller: fuse.Caller{Pid: 42}}
}

// cycle is what a cat with a lookup and an fstat sends. Its fh is always the one
// that a fresh handle table gives out, as the last handle is released first.
func cycle(s *Server, node NodeID) [][]byte {
	fh, _ := s.handles.open(0, node, Caller{}, 2)
	s.handles.release(fh)
	gen := fh >> genShift & (1<<genBits - 1)
	fh = fh&^(uint64(1<<genBits-1)<<genShift) | (gen+1)<<genShift
	read := func(off uint64) []byte {
		return wire(fuse.ReadIn{InHeader: header(opRead, node), Fh: fh, Offset: off, Size: 1 << 17, ReadFlags: fuse.READ_LOCKOWNER}, "")
	}
	return [][]byte{
		wire(header(opLookup, NodeProc), s.tree.node(node).name+"\x00"),
		wire(fuse.OpenIn{InHeader: header(opOpen, node)}, ""),
		wire(fuse.GetAttrIn{InHeader: header(opGetattr, node)}, ""),
		wire(fuse.GetAttrIn{InHeader: header(opGetattr, node), Flags_: fuse.FUSE_GETATTR_FH, Fh_: fh}, ""),
		read(0),
		read(0),
		read(10),
		read(1 << 20),
		wire(fuse.ReleaseIn{InHeader: header(opRelease, node), Fh: fh}, ""),
	}
}

// nextGeneration makes the fh of the requests of cycle that of the next open.
func nextGeneration(requests [][]byte) {
	const step = 1 << genShift
	for _, b := range requests {
		switch (*fuse.InHeader)(unsafe.Pointer(&b[0])).Opcode {
		case opRead:
			(*fuse.ReadIn)(unsafe.Pointer(&b[0])).Fh += step
		case opRelease:
			(*fuse.ReleaseIn)(unsafe.Pointer(&b[0])).Fh += step
		case opGetattr:
			if in := (*fuse.GetAttrIn)(unsafe.Pointer(&b[0])); in.Fh_ != 0 {
				in.Fh_ += step
			}
		}
	}
}

func TestHotRequestsAllocateNothing(t *testing.T) {
	for _, length := range []int{20, 1400, 100_000} {
		for _, node := range []NodeID{NodeUptime, NodeStat} {
			s, w := deadServer(devNull(t), content(strings.Repeat("x", length)))
			requests := cycle(s, node)
			all := func() {
				for _, b := range requests {
					execute(s, w, b)
				}
				nextGeneration(requests)
			}
			if allocs := testing.AllocsPerRun(200, all); allocs != 0 {
				t.Errorf("%d bytes, node %d: %v allocations", length, node, allocs)
			}
			// The requests must have meant the handle that was open.
			if len(s.handles.adopted) != 0 {
				t.Fatalf("the test asks for handles that are not open")
			}
		}
	}
}

func TestModeBitsDecideWhoReads(t *testing.T) {
	for _, c := range []struct {
		mode uint32
		c    Caller
		want bool
	}{
		{0o444, Caller{UID: 5, GID: 5}, true},
		{0o400, Caller{UID: 5, GID: 5}, false},
		{0o400, Caller{UID: 5, GID: 0}, false},
		{0o440, Caller{UID: 5, GID: 0}, true},
		{0o440, Caller{UID: 5, GID: 5}, false},
		{0o400, Caller{UID: 0, GID: 5}, true},
		{0o400, Caller{UID: ^uint32(0), GID: ^uint32(0)}, false},
	} {
		if got := (&node{mode: unix.S_IFREG | c.mode}).permits(c.c, unix.R_OK); got != c.want {
			t.Errorf("%o %+v: %v", c.mode, c.c, got)
		}
	}
}

// TestOnlyWithIDMapIsAnUnknownUserTrusted: with IDMap the kernel has checked the mode bits of
// our own files. It has not checked who owns a file of the host, so those are shown only if
// everybody may read them.
func TestOnlyWithIDMapIsAnUnknownUserTrusted(t *testing.T) {
	unknown := Caller{UID: unknownUser, GID: unknownUser}
	n := &node{mode: unix.S_IFREG | 0o400}
	for _, idmap := range []bool{false, true} {
		s := &Server{idmap: idmap}
		if got := s.permits(n, unknown, unix.R_OK); got != idmap {
			t.Errorf("with IDMap %v an unknown user may read slabinfo: %v", idmap, got)
		}
		if s.permits(n, Caller{UID: 5, GID: 5}, unix.R_OK) || s.permits(n, unknown, unix.W_OK) {
			t.Errorf("with IDMap %v another user may read, or an unknown one write", idmap)
		}
		turn := &Turn{request: request{caller: unknown}}
		for mode, want := range map[uint32]bool{0o400: false, 0o440: false, 0o444: true} {
			if got := turn.mayHost(&unix.Stat_t{Mode: unix.S_IFREG | mode}, unix.R_OK); got != want {
				t.Errorf("a file of the host with mode %o: %v", mode, got)
			}
		}
	}
}

// TestATableWithoutADirectoryOrWithAnIDTwiceIsRefused: a file keeps its id for ever, as the
// kernel may hold it over a change of daemons.
func TestATableWithoutADirectoryOrWithAnIDTwiceIsRefused(t *testing.T) {
	root := Node{ID: NodeRoot, Mode: unix.S_IFDIR | 0o555}
	for name, table := range map[string][]Node{
		"no root":      {{ID: 9, Path: "uptime"}},
		"no directory": {root, {ID: 9, Path: "proc/uptime"}},
		"an id twice":  {root, {ID: 9, Path: "uptime"}, {ID: 9, Path: "stat"}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			newTree(table)
		}()
	}
}

// waiting is a turn that asks to go to work.
func waiting(w *waits, q *queue, r request) (t *Turn, admitted bool, err error) {
	t = &Turn{request: r, wake: make(chan error, 1)}
	w.expect(t)
	admitted, err = w.ask(q, t)
	return t, admitted, err
}

// Owners take turns, the one that has waited longest first; within an owner it is
// first come, first served.
func TestOwnersTakeTurns(t *testing.T) {
	w := newWaits(2)
	w.work.share = 2
	unique := uint64(0)
	var all []*Turn
	add := func(owner uint64) bool {
		unique++
		turn, admitted, err := waiting(w, &w.work, request{unique: unique, owner: owner, node: &node{}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, turn)
		return admitted
	}
	var running []*Turn
	for range 2 {
		if !add('a') {
			t.Fatal("a free place is not used")
		}
		running = append(running, all[len(all)-1])
	}
	for _, o := range "aaabbcc" {
		if add(uint64(o)) {
			t.Fatal("a third turn is at work")
		}
	}
	// The last one's caller got a signal.
	if _, _, ok := w.interrupt(unique); !ok || <-all[len(all)-1].wake != unix.EINTR {
		t.Error("a turn that waits cannot be interrupted")
	}
	var order []rune
	var uniques []uint64
	for len(running) > 0 {
		w.leave(running[0])
		running = running[1:]
		for _, turn := range all {
			select {
			case err := <-turn.wake:
				if err != nil {
					t.Error(err)
				}
				order, uniques = append(order, rune(turn.owner)), append(uniques, turn.unique)
				running = append(running, turn)
			default:
			}
		}
	}
	if string(order) != "abcaba" || !slices.Equal(uniques, []uint64{3, 6, 8, 4, 7, 5}) {
		t.Errorf("%s %v", string(order), uniques)
	}
	if q := &w.work; len(q.owners) != 0 || q.order.Len() != 0 || q.running != 0 {
		t.Errorf("left: %d owners, %d in the order, %d running", len(q.owners), q.order.Len(), q.running)
	}
}

// A turn that leaves can set two free, one by its owner's share and one by its key.
func TestOneThatEndsSetsTwoFree(t *testing.T) {
	w := newWaits(16)
	q := &w.hostReads
	q.limit, q.share = 16, 2
	unique := uint64(0)
	add := func(owner uint64, key NodeID) (*Turn, bool) {
		unique++
		turn, admitted, err := waiting(w, q, request{unique: unique, owner: owner, op: opRead, id: key})
		if err != nil {
			t.Fatal(err)
		}
		return turn, admitted
	}
	first, _ := add('a', 1)
	if _, ok := add('a', 2); !ok {
		t.Fatal("a free place is not used")
	}
	third, ok := add('a', 3)
	if ok {
		t.Fatal("a third turn of one owner")
	}
	fourth, ok := add('b', 1)
	if ok {
		t.Fatal("two turns with one key")
	}
	w.leave(first)
	for _, turn := range []*Turn{third, fourth} {
		select {
		case err := <-turn.wake:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("turn %d still waits", turn.unique)
		}
	}
	if q.running != 3 {
		t.Errorf("%d turns are at work, want 3", q.running)
	}
}

func TestAnOwnerIsRefusedBeforeItTakesTheRecordsOfOthers(t *testing.T) {
	w := newWaits(16)
	for i := range maxOwned {
		if w.isFull(&w.work, 'a') {
			t.Fatalf("full after %d", i)
		}
		if _, _, err := waiting(w, &w.work, request{unique: uint64(i), owner: 'a', node: &node{}}); err != nil {
			t.Fatal(err)
		}
	}
	if !w.isFull(&w.work, 'a') || w.isFull(&w.work, 'b') {
		t.Errorf("a is full: %v, b: %v", w.isFull(&w.work, 'a'), w.isFull(&w.work, 'b'))
	}
	if _, _, err := waiting(w, &w.work, request{unique: maxOwned, owner: 'a', node: &node{}}); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("one more: %v, want EAGAIN", err)
	}
}

// TestDelaysLeaveRoomForTheNextOwner, however many owners take their share.
func TestDelaysLeaveRoomForTheNextOwner(t *testing.T) {
	d := delays{of: make(map[uint64]int)}
	for owner := range uint64(20) {
		if d.isFull(owner) {
			t.Fatalf("owner %d gets nothing", owner)
		}
		for !d.isFull(owner) {
			d.add(owner)
		}
	}
	if d.all >= maxDelayed {
		t.Errorf("%d are delayed, %d may be", d.all, maxDelayed)
	}
	for owner := range uint64(20) {
		for d.of[owner] > 0 {
			d.drop(owner)
		}
	}
	if d.all != 0 || len(d.of) != 0 {
		t.Errorf("left: %d, of %d owners", d.all, len(d.of))
	}
}

// TestParkedTurnsAreSmall: thousands may wait.
func TestParkedTurnsAreSmall(t *testing.T) {
	s, turn := deadServer(devNull(t), content(strings.Repeat("x", 100_000)))
	read := wire(fuse.ReadIn{InHeader: header(opRead, NodeStat), Size: 1 << 17, ReadFlags: fuse.READ_LOCKOWNER}, "")
	var large int
	for i := range 100 {
		execute(s, turn, read) // makes the buffer large
		if cap(turn.out) > smallReply {
			large++
		}
		turn.unique = uint64(1000 + i)
		s.waits.expect(turn)
		turn = newTurn(s)
	}
	if large != keepTurns {
		t.Errorf("%d blocked turns have a large reply buffer, want %d", large, keepTurns)
	}
}
