// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"vprocfs/fs/journal"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// testHandles is the table of a journal that ends with the test.
func testHandles(t testing.TB) *handles {
	t.Helper()
	j := journal.Anonymous(areaLayout())
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return newHandles(layOut(j))
}

// opened is a new handle whose owner is not known.
func opened(t testing.TB, h *handles, id NodeID, c Caller, unique uint64) uint64 {
	t.Helper()
	fh, err := h.open(0, id, c, unique)
	if err != nil {
		t.Fatal(err)
	}
	return fh
}

// kept makes content the text of r's handle, of which r gets size bytes.
func kept(t testing.TB, h *handles, r *request, content string, size int) {
	t.Helper()
	if err := h.keep(r, 0, []byte(content), size); err != nil {
		t.Fatal(err)
	}
}

// got is what is read for r, if there is a text for it.
func got(t testing.TB, h *handles, r *request) (string, bool) {
	t.Helper()
	b, ok, err := h.read(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), ok
}

// unique counts the requests of the tests.
var unique atomic.Uint64

// reading is a READ of stat.
func reading(fh, off uint64, size int, c Caller) *request {
	return &request{
		unique: unique.Add(2) + 100, op: opRead, id: NodeStat,
		caller: c, fh: fh, off: off, size: size,
	}
}

func TestHandleTakesWhatItsDocSays(t *testing.T) {
	if size := unsafe.Sizeof(handle{}); size != 128 {
		t.Errorf("%d bytes", size)
	}
	h := testHandles(t)
	const n = 10_000
	fhs := make([]uint64, 0, n)
	uptime := "12345678.90 123456789.01\n"
	for range 3 {
		for range n {
			fh := opened(t, h, NodeUptime, Caller{PID: 1}, 2)
			kept(t, h, reading(fh, 0, 0, Caller{}), uptime, len(uptime))
			fhs = append(fhs, fh)
		}
		for _, fh := range fhs {
			h.release(fh)
		}
		fhs = fhs[:0]
	}
	if grown := h.grown(); grown != (n+chunkSize-1)/chunkSize*chunkSize {
		t.Errorf("%d entries: released handles are not used again", grown)
	}
	if h.arena.used != 0 {
		t.Errorf("%d pieces of the arena are in use", h.arena.used)
	}
}

// TestManyOwnersShareTheHandles: whoever comes last is refused, and nobody else is in the
// way of one that has closed its own.
func TestManyOwnersShareTheHandles(t *testing.T) {
	h := testHandles(t)
	var fhs []uint64
	for owner := uint64(1); ; owner++ {
		fh, err := h.open(owner, NodeUptime, Caller{PID: 7}, 2)
		if err != nil {
			if err != syscall.ENFILE {
				t.Error(err)
			}
			break
		}
		fhs = append(fhs, fh)
	}
	if len(fhs) <= maxHandles-ownerShare || len(fhs) > maxHandles {
		t.Errorf("%d handles, want about %d", len(fhs), maxHandles)
	}
	for _, fh := range fhs[:ownerShare] {
		h.release(fh)
	}
	if _, err := h.open(99, NodeUptime, Caller{PID: 7}, 2); err != nil {
		t.Error("a handle that was closed is not given out again:", err)
	}
}

// TestAReadWithoutAHandleIsNotContinued: a handle that could not be adopted has no text.
// A read of it is the whole text, its end, or an error.
func TestAReadWithoutAHandleIsNotContinued(t *testing.T) {
	h := testHandles(t)
	for _, c := range []struct {
		off  uint64
		size int
		want error
	}{{0, 7, nil}, {0, 6, syscall.ENOBUFS}, {3, 4, syscall.ESTALE}, {7, 0, nil}, {9, 0, nil}} {
		if err := h.keep(reading(12345, c.off, 100, Caller{}), 0, []byte("content"), c.size); err != c.want {
			t.Errorf("%d bytes at %d: %v, want %v", c.size, c.off, err, c.want)
		}
	}
}

// TestKeptContentIsBounded guards the daemon's memory.
func TestKeptContentIsBounded(t *testing.T) {
	h := testHandles(t)
	big := strings.Repeat("x", 1<<20)
	c := Caller{PID: 7}
	var fhs []uint64
	for range 100 {
		fh := opened(t, h, NodeStat, c, 2)
		kept(t, h, reading(fh, 0, 0, Caller{}), big, 10)
		fhs = append(fhs, fh)
		if h.arena.used > numPieces/ownerShare {
			t.Fatalf("%d pieces are kept", h.arena.used)
		}
		if got, ok := got(t, h, reading(fh, 100, 50, c)); !ok || len(got) != 50 {
			t.Fatal("the newest content is not kept")
		}
	}
	for _, fh := range fhs {
		h.release(fh)
	}
	if h.arena.used != 0 {
		t.Errorf("%d pieces are kept of no handle", h.arena.used)
	}
}

// TestAThreadIdThatCameToAnotherIsNotFollowed guards one container's content from
// another's: thread ids are used again.
func TestAThreadIdThatCameToAnotherIsNotFollowed(t *testing.T) {
	h := testHandles(t)
	first, second := Caller{PID: 7, UID: 1}, Caller{PID: 8, UID: 2}
	fh := opened(t, h, NodeStat, first, 2)
	if h.lastOpened(first.PID, NodeStat) != fh {
		t.Fatal("the handle just opened is not known")
	}
	h.keepSized(fh, reading(fh, 0, 0, first), 0, []byte("first's content"))
	if _, ok := got(t, h, reading(fh, 3, 5, second)); ok {
		t.Error("another caller reads what was made for the first one's stat")
	}
	h.start = h.start.Add(-2 * sizedFor)
	if got := h.lastOpened(first.PID, NodeStat); got != noHandle {
		t.Errorf("%#x is still the last one of the thread", got)
	}
}

func TestReleasedHandleIsNotItsSuccessor(t *testing.T) {
	h := testHandles(t)
	old := opened(t, h, NodeStat, Caller{PID: 7}, 2)
	kept(t, h, reading(old, 0, 0, Caller{}), "old", 0)
	h.release(old)
	fh := opened(t, h, NodeStat, Caller{PID: 8}, 2)
	if fh == old || fh&(maxHandles-1) != old&(maxHandles-1) {
		t.Fatalf("%#x after %#x", fh, old)
	}
	kept(t, h, reading(old, 0, 0, Caller{}), "late", 4)
	h.release(old)
	if h.get(fh) == nil || h.get(fh).hasText() || h.get(old) != nil {
		t.Error("what was done to the old handle was done to the new one")
	}
	if got := h.lastOpened(7, NodeStat); got != noHandle {
		t.Errorf("last opened: %#x, which is closed", got)
	}
	if _, ok := h.length(old, reading(old, 0, 0, Caller{})); ok {
		t.Error("a released handle is being read")
	}
}

func TestGenerationsWrapWithoutZero(t *testing.T) {
	h := testHandles(t)
	fh := opened(t, h, NodeStat, Caller{}, 2)
	h.get(fh).gen = 1<<genBits - 1
	fh |= (1<<genBits - 1) << genShift
	h.release(fh)
	next := opened(t, h, NodeStat, Caller{}, 2)
	if gen := next >> genShift & (1<<genBits - 1); gen != 1 {
		t.Errorf("generation %d after the last", gen)
	}
}

func TestForeignHandleLivesUntilItsRelease(t *testing.T) {
	h, former := testHandles(t), testHandles(t)
	former.header.epoch = h.header.epoch ^ 1<<63
	fh := opened(t, former, NodeStat, Caller{}, 2)
	mine := opened(t, h, NodeStat, Caller{}, 2)
	if h.get(fh) != nil {
		t.Fatal("a handle of another epoch is known")
	}
	h.adopt(fh, NodeStat)
	h.adopt(fh, NodeStat)
	text := strings.Repeat("x", 100)
	if _, ok, err := h.read(nil, reading(fh, 10, 50, Caller{})); ok || err != nil {
		t.Error("a text that the former process began is known:", ok, err)
	}
	if err := h.keep(reading(fh, 10, 50, Caller{}), 0, []byte(text), 50); err != syscall.ESTALE {
		t.Error("a text that the former process began goes on in another:", err)
	}
	kept(t, h, reading(fh, 100, 50, Caller{}), text, 0) // is its end
	kept(t, h, reading(fh, 0, 0, Caller{}), text, 10)
	if n, busy := h.length(fh, reading(fh, 0, 0, Caller{})); n != 100 || !busy {
		t.Errorf("%d %v", n, busy)
	}
	h.release(fh)
	h.release(fh)
	if len(h.adopted) != 0 || h.get(fh) != nil || h.get(mine) == nil {
		t.Error("not released, or too much")
	}
}

func TestContentMadeForAnotherOrLongAgoIsNotRead(t *testing.T) {
	h := testHandles(t)
	me := Caller{PID: 7, UID: 1, GID: 2}
	fh := opened(t, h, NodeStat, me, 2)
	for _, c := range []struct {
		name  string
		reads Caller
		age   bool
		want  bool
	}{
		{"mine", me, false, true},
		{"mine, but old", me, true, false},
		{"another thread's", Caller{8, 1, 2}, false, false},
		{"another user's", Caller{7, 2, 2}, false, false},
		{"another group's", Caller{7, 1, 1}, false, false},
	} {
		h.keepSized(fh, reading(fh, 0, 0, me), 0, []byte("content"))
		// A minute ahead, so that a slow machine does not make it old.
		h.get(fh).sized += 60e9
		if c.age {
			h.get(fh).sized = 1
			h.start = h.start.Add(-sizedFor)
		}
		if got, ok := got(t, h, reading(fh, 0, 100, c.reads)); ok != c.want || ok && got != "content" {
			t.Errorf("%s: %q %v", c.name, got, ok)
		}
		if _, ok := got(t, h, reading(fh, 0, 100, me)); ok && c.want {
			t.Errorf("%s: it is read twice", c.name)
		}
	}
}

// TestOneOwnerLeavesHandlesForOthers: beyond the first ones nobody gets more than a
// share, and gets it again when he has closed some.
func TestOneOwnerLeavesHandlesForOthers(t *testing.T) {
	h := testHandles(t)
	s := &Server{handles: h, tree: newTree(nil)}
	open := func(uid uint32) (uint64, error) {
		w := newTurn(s)
		w.blocked = true
		w.request = request{id: NodeUptime, caller: Caller{PID: int(uid), UID: uid}, owner: uint64(uid), unique: unique.Add(2)}
		n, err := s.openReply(w)
		if err != nil {
			return noHandle, err
		}
		if n == 0 {
			t.Fatal("no reply")
		}
		return w.fh, nil
	}
	var greedy []uint64
	for {
		fh, err := open(1)
		if err != nil {
			if err != syscall.ENFILE {
				t.Error(err)
			}
			break
		}
		if fh == noHandle {
			t.Fatal("he has taken all")
		}
		greedy = append(greedy, fh)
	}
	if want := maxHandles / ownerShare; len(greedy) != want {
		t.Errorf("%d handles, want %d", len(greedy), want)
	}
	if fh, err := open(2); fh == noHandle || err != nil {
		t.Errorf("another gets %d, %v", fh, err)
	}
	for range 2 { // the other's handle has made the share smaller by an eighth
		h.release(greedy[len(greedy)-1])
		greedy = greedy[:len(greedy)-1]
	}
	if fh, err := open(1); fh == noHandle || err != nil {
		t.Errorf("who has closed one gets %d, %v", fh, err)
	}
	for _, fh := range greedy {
		h.release(fh)
	}
	if n := h.inUse.Load(); n != 2 || h.isCrowded() {
		t.Errorf("%d are open, want 2", n)
	}
	for owner, want := range map[uint64]int{1: 1, 2: 1} {
		if n := h.account(owner).handles; n != want {
			t.Errorf("owner %d has %d handles, want %d", owner, n, want)
		}
	}
}

// telling is a Source that knows whom its callers are accounted to: their thread ids, and a
// thousand more if that has to be found out.
type telling struct{ asked int }

func (s *telling) Append(dst []byte, _ NodeID, t *Turn) ([]byte, error) {
	t.SetOwner(uint64(t.Caller().PID))
	return append(dst, "content"...), nil
}

func (s *telling) Owner(c Caller) uint64 {
	s.asked++
	return uint64(c.PID) + 1000
}

// TestAnOpenInACrowdAsksOffTheReader: to find an owner takes system calls. Who has just read
// something is known without.
func TestAnOpenInACrowdAsksOffTheReader(t *testing.T) {
	src := &telling{}
	s, turn := deadServer(devNull(t), src)
	s.stop.Store(true) // no other reader starts
	open := func(pid uint32) (owner uint64, handedOn bool) {
		turn = newTurn(s)
		h := header(opOpen, NodeStat)
		h.Pid, h.Unique = pid, unique.Add(2)
		handedOn = execute(s, turn, wire(fuse.OpenIn{InHeader: h}, ""))
		if turn.fh == noHandle {
			t.Fatal("not opened")
		}
		return s.handles.get(turn.fh).owner, handedOn
	}
	if owner, handedOn := open(5); owner != 0 || handedOn {
		t.Errorf("alone: owner %d, %t", owner, handedOn)
	}
	first := turn.fh
	h := header(opRead, NodeStat)
	h.Pid = 5
	execute(s, turn, wire(fuse.ReadIn{InHeader: h, Fh: first, Size: 100, ReadFlags: fuse.READ_LOCKOWNER}, ""))
	if owner := s.handles.get(first).owner; owner != 5 || s.handles.account(5).handles != 1 {
		t.Errorf("read: owner %d", owner)
	}
	s.handles.inUse.Add(crowd)
	if owner, handedOn := open(5); owner != 5 || handedOn || src.asked != 0 {
		t.Errorf("in a crowd: owner %d, %t, asked for %d times", owner, handedOn, src.asked)
	}
	if owner, handedOn := open(6); owner != 1006 || !handedOn || src.asked != 1 {
		t.Errorf("in a crowd, not known: owner %d, %t, asked for %d times", owner, handedOn, src.asked)
	}
	if owner, handedOn := open(6); owner != 1006 || handedOn || src.asked != 1 {
		t.Errorf("and again: owner %d, %t, asked for %d times", owner, handedOn, src.asked)
	}
	if owner, ok := s.handles.ownerOf(6); !ok || owner != 1006 {
		t.Errorf("owner %d %t", owner, ok)
	}
	s.handles.start = s.handles.start.Add(-2 * memoFor)
	if _, ok := s.handles.ownerOf(6); ok {
		t.Error("a thread is known for longer than it may be the same one")
	}
}

// TestManyOwnersLeaveRoomForTheNextOne: however many take all that they may have, the next
// one can begin a text, and each can finish the one that it began last.
func TestManyOwnersLeaveRoomForTheNextOne(t *testing.T) {
	h := testHandles(t)
	text := []byte(strings.Repeat("x", 8000))
	newest := make(map[uint64]uint64)
	begin := func(owner uint64) error {
		fh, err := h.open(owner, NodeStat, Caller{PID: 7}, 2)
		if err != nil {
			t.Fatal(err)
		}
		newest[owner] = fh
		return h.keep(reading(fh, 0, 0, Caller{}), owner, text, 10)
	}
	const owners = 40
	for owner := range uint64(owners) {
		for range 600 { // 4.6 MiB
			if err := begin(owner + 1); err != nil {
				t.Fatalf("owner %d: %v", owner, err)
			}
		}
	}
	if err := begin(owners + 1); err != nil {
		t.Errorf("one more owner: %v", err)
	}
	for owner, fh := range newest {
		if rest, ok := got(t, h, reading(fh, 10, 1<<16, Caller{})); !ok || len(rest) != len(text)-10 {
			t.Errorf("owner %d: %d bytes, %t", owner, len(rest), ok)
		}
	}
}
