package fs

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func TestHandleTakesWhatItsDocSays(t *testing.T) {
	if size := unsafe.Sizeof(handle{}); size != 112 {
		t.Errorf("%d bytes", size)
	}
	const n = 10_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	h := newHandles()
	fhs := make([]uint64, 0, n)
	uptime := []byte("12345678.90 123456789.01\n")
	for range 3 {
		for range n {
			fh := h.open(NodeUptime, Caller{PID: 1})
			if fh == noHandle {
				t.Fatal("no handle")
			}
			h.keep(fh, uptime, 0)
			fhs = append(fhs, fh)
		}
		for _, fh := range fhs {
			h.release(fh)
		}
		fhs = fhs[:0]
	}
	after := heap()
	if used := int64(after) - int64(before); used > n*130+1<<18 {
		t.Errorf("%d handles took %d bytes", n, used)
	}
	if len(h.chunks) != (n+chunkSize-1)/chunkSize {
		t.Errorf("%d chunks: released handles are not used again", len(h.chunks))
	}
	runtime.KeepAlive(h)
}

// TestTooManyHandlesAreReadWithoutKeeping guards the callers of all containers from
// one that opens too much.
func TestTooManyHandlesAreReadWithoutKeeping(t *testing.T) {
	h := newHandles()
	h.chunks = make([]*[chunkSize]handle, maxHandles/chunkSize)
	c := Caller{PID: 7}
	fh := h.open(NodeUptime, c)
	if fh != noHandle {
		t.Fatalf("%#x: one more than there are", fh)
	}
	h.chunks = nil
	h.adopt(fh)
	h.keep(fh, []byte("content"), 7)
	if _, ok := h.read(nil, fh, 3, 10, c); ok || len(h.adopted) != 0 {
		t.Error("something is kept")
	}
	h.release(fh)
}

// TestKeptContentIsBounded guards the daemon's memory.
func TestKeptContentIsBounded(t *testing.T) {
	h := newHandles()
	big := make([]byte, 1<<20)
	c := Caller{PID: 7}
	var fhs []uint64
	for range 100 {
		fh := h.open(NodeStat, c)
		h.keep(fh, big, 10)
		fhs = append(fhs, fh)
		if h.kept > keepContent+len(big) {
			t.Fatalf("%d bytes are kept", h.kept)
		}
		if got, ok := h.read(nil, fh, 100, 50, c); !ok || len(got) != 50 {
			t.Fatal("the newest content is not kept")
		}
	}
	for _, fh := range fhs {
		h.release(fh)
	}
	if h.kept != 0 {
		t.Errorf("%d bytes are kept of no handle", h.kept)
	}
}

// TestAThreadIdThatCameToAnotherIsNotFollowed guards one container's content from
// another's: thread ids are used again.
func TestAThreadIdThatCameToAnotherIsNotFollowed(t *testing.T) {
	h := newHandles()
	first, second := Caller{PID: 7, UID: 1}, Caller{PID: 8, UID: 2}
	fh := h.open(NodeStat, first)
	if h.lastOpened(first.PID, NodeStat) != fh {
		t.Fatal("the handle just opened is not known")
	}
	h.keepSized(fh, []byte("first's content"), first)
	if _, ok := h.read(nil, fh, 3, 5, second); ok {
		t.Error("another caller reads what was made for the first one's stat")
	}
	h.start = h.start.Add(-2 * sizedFor)
	if got := h.lastOpened(first.PID, NodeStat); got != noHandle {
		t.Errorf("%#x is still the last one of the thread", got)
	}
}

func TestReleasedHandleIsNotItsSuccessor(t *testing.T) {
	h := newHandles()
	old := h.open(NodeStat, Caller{PID: 7})
	h.keep(old, []byte("old"), 0)
	h.release(old)
	fh := h.open(NodeStat, Caller{PID: 8})
	if fh == old || fh&(maxHandles-1) != old&(maxHandles-1) {
		t.Fatalf("%#x after %#x", fh, old)
	}
	h.keep(old, []byte("late"), 0)
	h.release(old)
	if h.get(fh) == nil || h.get(fh).has || h.get(old) != nil {
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
	h := newHandles()
	fh := h.open(NodeStat, Caller{})
	h.get(fh).gen = 1<<genBits - 1
	fh |= (1<<genBits - 1) << genShift
	h.release(fh)
	next := h.open(NodeStat, Caller{})
	if gen := next >> genShift & (1<<genBits - 1); gen != 1 {
		t.Errorf("generation %d after the last", gen)
	}
}

func TestForeignHandleLivesUntilItsRelease(t *testing.T) {
	h, former := newHandles(), newHandles()
	former.epoch = h.epoch ^ 1<<63
	fh := former.open(NodeStat, Caller{})
	mine := h.open(NodeStat, Caller{})
	if h.get(fh) != nil {
		t.Fatal("a handle of another epoch is known")
	}
	h.adopt(fh)
	h.adopt(fh)
	h.keep(fh, []byte(strings.Repeat("x", 100)), 10)
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
	h := newHandles()
	me := Caller{PID: 7, UID: 1, GID: 2}
	fh := h.open(NodeStat, me)
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
		h.keepSized(fh, []byte("content"), me)
		// A minute ahead, so that a slow machine does not make it old.
		h.get(fh).sized += 60e9
		if c.age {
			h.get(fh).sized = 1
			h.start = h.start.Add(-sizedFor)
		}
		if got, ok := h.read(nil, fh, 0, 100, c.reads); ok != c.want || ok && string(got) != "content" {
			t.Errorf("%s: %q %v", c.name, got, ok)
		}
		if _, ok := h.read(nil, fh, 0, 100, me); ok {
			t.Errorf("%s: it is read twice", c.name)
		}
	}
}

func TestBuffersAreRecycledWithinBounds(t *testing.T) {
	var b buffers
	for range 100_000 {
		var held [][]byte
		for range rand.IntN(4) {
			n := 1 << rand.IntN(21)
			n = max(1, n-rand.IntN(n))
			buf := b.get(n)
			if len(buf) != n {
				t.Fatalf("asked for %d bytes, got %d", n, len(buf))
			}
			buf = b.resize(buf, n/2+1)
			if len(buf) != n/2+1 {
				t.Fatalf("resized to %d bytes, got %d", n/2+1, len(buf))
			}
			held = append(held, buf)
		}
		for _, buf := range held {
			b.put(buf)
		}
	}
	kept := 0
	for class, free := range b.free {
		for _, buf := range free {
			if cap(buf) != 1<<(class+minBufferBits) {
				t.Fatalf("class %d has a buffer of %d bytes", class, cap(buf))
			}
			kept += cap(buf)
		}
	}
	if kept == 0 || kept > len(b.free)*keepBytes {
		t.Errorf("%d bytes kept", kept)
	}
}
