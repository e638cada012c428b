package fs

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// testHandles is the table of a journal that ends with the test.
func testHandles(t testing.TB) *handles {
	t.Helper()
	j := anonymousJournal()
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return newHandles(j)
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
	if size := unsafe.Sizeof(handle{}); size != 112 {
		t.Errorf("%d bytes", size)
	}
	h := testHandles(t)
	const n = 10_000
	fhs := make([]uint64, 0, n)
	uptime := []byte("12345678.90 123456789.01\n")
	for range 3 {
		for range n {
			fh := h.open(NodeUptime, Caller{PID: 1}, 2)
			if fh == noHandle {
				t.Fatal("no handle")
			}
			h.keep(reading(fh, 0, 0, Caller{}), uptime, 0)
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
		t.Errorf("%d bytes of the arena are in use", h.arena.used)
	}
}

// TestTooManyHandlesAreReadWithoutKeeping guards the callers of all containers from
// one that opens too much.
func TestTooManyHandlesAreReadWithoutKeeping(t *testing.T) {
	h := testHandles(t)
	c := Caller{PID: 7}
	for range maxHandles {
		if h.open(NodeUptime, c, 2) == noHandle {
			t.Fatal("no handle")
		}
	}
	fh := h.open(NodeUptime, c, 2)
	if fh != noHandle {
		t.Fatalf("%#x: one more than there are", fh)
	}
	h.adopt(fh, NodeUptime)
	h.adopt(12345, NodeUptime)
	h.keep(reading(fh, 0, 0, c), []byte("content"), 7)
	if _, ok := h.read(nil, reading(fh, 3, 10, c)); ok || len(h.adopted) != 0 {
		t.Error("something is kept")
	}
	h.release(fh)
}

// TestKeptContentIsBounded guards the daemon's memory.
func TestKeptContentIsBounded(t *testing.T) {
	h := testHandles(t)
	big := make([]byte, 1<<20)
	c := Caller{PID: 7}
	var fhs []uint64
	for range 100 {
		fh := h.open(NodeStat, c, 2)
		h.keep(reading(fh, 0, 0, Caller{}), big, 10)
		fhs = append(fhs, fh)
		if h.arena.used > arenaSize {
			t.Fatalf("%d bytes are kept", h.arena.used)
		}
		if got, ok := h.read(nil, reading(fh, 100, 50, c)); !ok || len(got) != 50 {
			t.Fatal("the newest content is not kept")
		}
	}
	for _, fh := range fhs {
		h.release(fh)
	}
	if h.arena.used != 0 {
		t.Errorf("%d bytes are kept of no handle", h.arena.used)
	}
}

// TestAThreadIdThatCameToAnotherIsNotFollowed guards one container's content from
// another's: thread ids are used again.
func TestAThreadIdThatCameToAnotherIsNotFollowed(t *testing.T) {
	h := testHandles(t)
	first, second := Caller{PID: 7, UID: 1}, Caller{PID: 8, UID: 2}
	fh := h.open(NodeStat, first, 2)
	if h.lastOpened(first.PID, NodeStat) != fh {
		t.Fatal("the handle just opened is not known")
	}
	h.keepSized(fh, reading(fh, 0, 0, first), []byte("first's content"))
	if _, ok := h.read(nil, reading(fh, 3, 5, second)); ok {
		t.Error("another caller reads what was made for the first one's stat")
	}
	h.start = h.start.Add(-2 * sizedFor)
	if got := h.lastOpened(first.PID, NodeStat); got != noHandle {
		t.Errorf("%#x is still the last one of the thread", got)
	}
}

func TestReleasedHandleIsNotItsSuccessor(t *testing.T) {
	h := testHandles(t)
	old := h.open(NodeStat, Caller{PID: 7}, 2)
	h.keep(reading(old, 0, 0, Caller{}), []byte("old"), 0)
	h.release(old)
	fh := h.open(NodeStat, Caller{PID: 8}, 2)
	if fh == old || fh&(maxHandles-1) != old&(maxHandles-1) {
		t.Fatalf("%#x after %#x", fh, old)
	}
	h.keep(reading(old, 0, 0, Caller{}), []byte("late"), 0)
	h.release(old)
	if h.get(fh) == nil || h.get(fh).hasContent() || h.get(old) != nil {
		t.Error("what was done to the old handle was done to the new one")
	}
	if got := h.lastOpened(7, NodeStat); got != old {
		t.Errorf("last opened: %#x", got)
	}
	if _, busy := h.inMiddle(old); busy {
		t.Error("a released handle is being read")
	}
}

func TestGenerationsWrapWithoutZero(t *testing.T) {
	h := testHandles(t)
	fh := h.open(NodeStat, Caller{}, 2)
	h.get(fh).gen = 1<<genBits - 1
	fh |= (1<<genBits - 1) << genShift
	h.release(fh)
	next := h.open(NodeStat, Caller{}, 2)
	if gen := next >> genShift & (1<<genBits - 1); gen != 1 {
		t.Errorf("generation %d after the last", gen)
	}
}

func TestForeignHandleLivesUntilItsRelease(t *testing.T) {
	h, former := testHandles(t), testHandles(t)
	former.header.epoch = h.header.epoch ^ 1<<63
	fh := former.open(NodeStat, Caller{}, 2)
	mine := h.open(NodeStat, Caller{}, 2)
	if h.get(fh) != nil {
		t.Fatal("a handle of another epoch is known")
	}
	h.adopt(fh, NodeStat)
	h.adopt(fh, NodeStat)
	h.keep(reading(fh, 0, 0, Caller{}), []byte(strings.Repeat("x", 100)), 10)
	if n, busy := h.inMiddle(fh); n != 100 || !busy {
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
	fh := h.open(NodeStat, me, 2)
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
		h.keepSized(fh, reading(fh, 0, 0, me), []byte("content"))
		// A minute ahead, so that a slow machine does not make it old.
		h.get(fh).sized += 60e9
		if c.age {
			h.get(fh).sized = 1
			h.start = h.start.Add(-sizedFor)
		}
		if got, ok := h.read(nil, reading(fh, 0, 100, c.reads)); ok != c.want || ok && string(got) != "content" {
			t.Errorf("%s: %q %v", c.name, got, ok)
		}
		if _, ok := h.read(nil, reading(fh, 0, 100, me)); ok {
			t.Errorf("%s: it is read twice", c.name)
		}
	}
}

// TestOneOwnerLeavesHandlesForOthers: beyond the first ones nobody gets more than a
// share, and gets it again when he has closed some.
func TestOneOwnerLeavesHandlesForOthers(t *testing.T) {
	h := testHandles(t)
	s := &Server{handles: h, owner: func(c Caller) uint64 { return uint64(c.UID) }}
	w := newWorker()
	open := func(uid uint32) (uint64, error) {
		n, err := s.openReply(w, NodeUptime, Caller{PID: 1, UID: uid}, unique.Add(2))
		if err != nil {
			return noHandle, err
		}
		if n == 0 {
			t.Fatal("no reply")
		}
		return placed[fuse.OpenOut](w.out[:cap(w.out)]).Fh, nil
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
	if len(greedy) != crowd+maxHandlesOf {
		t.Errorf("%d handles, want %d", len(greedy), crowd+maxHandlesOf)
	}
	if fh, err := open(2); fh == noHandle || err != nil {
		t.Errorf("another gets %d, %v", fh, err)
	}
	h.release(greedy[len(greedy)-1])
	if fh, err := open(1); fh == noHandle || err != nil {
		t.Errorf("who has closed one gets %d, %v", fh, err)
	}
	for _, fh := range greedy {
		h.release(fh)
	}
	if n := h.inUse.Load(); n != 2 || h.isCrowded() {
		t.Errorf("%d are open, want 2", n)
	}
	if len(h.counts) != 2 {
		t.Errorf("%d owners are counted, want 2", len(h.counts))
	}
}
