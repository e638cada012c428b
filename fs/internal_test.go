package fs

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// content is a Source of the same content for every file and caller.
type content string

func (s content) Append(dst []byte, _ NodeID, _ Caller, _ bool) ([]byte, error) {
	return append(dst, s...), nil
}

// deadServer is a server without a connection: requests are given to its handle
// method, and replies go to fd.
func deadServer(fd int, src Source) (*Server, *worker) {
	return NewServer(NewConn(fd, nil, nil), src, ServerOptions{}), newWorker()
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
	fh := s.handles.open(node, Caller{})
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
					s.handle(w, b)
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
		if got := mayRead(&node{mode: unix.S_IFREG | c.mode}, c.c); got != c.want {
			t.Errorf("%o %+v: %v", c.mode, c.c, got)
		}
	}
}

func TestNodeTableIsATree(t *testing.T) {
	seen := make(map[NodeID]*node)
	table := nodeTable()
	last := NodeID(0)
	for i := range table {
		n := &table[i]
		if n.id <= last {
			t.Errorf("%s: id %d is not in order", n.name, n.id)
		}
		last = n.id
		seen[n.id] = n
		if parent := seen[n.parent]; parent == nil || !parent.isDir() {
			t.Errorf("%s: parent %d is no directory before it", n.name, n.parent)
		}
	}
}

// A file keeps its id for ever: the kernel may hold it over a change of daemons.
func TestNodeIDsNeverChange(t *testing.T) {
	tree := newTree(nodeTable())
	for path, id := range map[string]NodeID{
		"proc": 2, "proc/uptime": 16, "proc/meminfo": 17, "proc/stat": 18,
		"proc/cpuinfo": 19, "proc/swaps": 21, "proc/diskstats": 22, "proc/slabinfo": 23,
	} {
		at := tree.node(NodeRoot)
		for name := range strings.SplitSeq(path, "/") {
			at = tree.lookup(at.id, []byte(name))
		}
		if at.id != id {
			t.Errorf("%s has id %d, had %d", path, at.id, id)
		}
	}
}

func TestMountinfoIsReadExactly(t *testing.T) {
	const text = `22 1 0:20 / / rw shared:1 - ext4 /dev/root rw
30 22 0:33 / /run/a\040b rw,nosuid shared:5 master:2 - tmpfs tmpfs rw
31 30 0:34 / /run/a\040b rw - fuse.vprocfs vprocfs ro,user_id=0
32 22 0:35 / /run/back\134slash rw - fuse.a\040b x rw
33 22 0:36 / /run/\134040 rw - ext3 x rw
short line
`
	for path, want := range map[string]string{
		"/":               "ext4",
		"/run/a b":        "fuse.vprocfs",
		"/run/a":          "",
		"/run/a b/":       "",
		`/run/back\slash`: "fuse.a b",
		`/run/\040`:       "ext3",
		"/run/ ":          "",
	} {
		if got := findMount(text, path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
