package fs

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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

func TestNodeTableIsATree(t *testing.T) {
	seen := make(map[NodeID]*node)
	table := (&ServerOptions{CPUs: &CPUTree{}, Pressure: true}).table()
	newTree(table) // sorts it
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
	tree := newTree((&ServerOptions{CPUs: &CPUTree{}, Pressure: true}).table())
	for path, id := range map[string]NodeID{
		"proc": 2, "proc/uptime": 16, "proc/meminfo": 17, "proc/stat": 18,
		"proc/pressure": 7, "proc/pressure/cpu": 40, "proc/pressure/memory": 41, "proc/pressure/io": 42,
		"proc/cpuinfo": 19, "proc/loadavg": 20, "proc/swaps": 21, "proc/diskstats": 22, "proc/slabinfo": 23,
		"sys": 3, "sys/devices": 4, "sys/devices/system": 5, "sys/devices/system/cpu": 6,
		"sys/devices/system/cpu/online": 32, "sys/devices/system/cpu/present": 33,
		"sys/devices/system/cpu/possible": 34, "sys/devices/system/cpu/offline": 35,
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

// Owners take turns, the one that has waited longest first; within an owner it is
// first come, first served.
func TestOwnersTakeTurns(t *testing.T) {
	l := newSlow(2, 2)
	unique := uint64(0)
	add := func(owner uint64) (request, bool) {
		unique++
		r := request{unique: unique, owner: owner, node: &node{}}
		return r, l.begin(r)
	}
	var running []request
	for range 2 {
		r, ok := add('a')
		if !ok {
			t.Fatal("a free worker is not used")
		}
		running = append(running, r)
	}
	for _, o := range "aaabbcc" {
		if _, ok := add(uint64(o)); ok {
			t.Fatal("a third worker")
		}
	}
	if _, ok := l.claim(unique); !ok { // the last one's caller got a signal
		t.Error("a request in the queue cannot be claimed")
	}
	var order []rune
	var uniques []uint64
	for len(running) > 0 {
		r, ok := l.next(running[0])
		running = running[1:]
		if ok {
			order, uniques = append(order, rune(r.owner)), append(uniques, r.unique)
			running = append(running, r)
		}
	}
	if string(order) != "abcaba" || !slices.Equal(uniques, []uint64{3, 6, 8, 4, 7, 5}) {
		t.Errorf("%s %v", string(order), uniques)
	}
	if len(l.owners) != 0 || l.turns.Len() != 0 || l.running != 0 {
		t.Errorf("left: %d owners, %d turns, %d running", len(l.owners), l.turns.Len(), l.running)
	}
}

// A worker that is done can set two requests free, one by its owner's share and one by
// its key.
func TestOneThatEndsSetsTwoFree(t *testing.T) {
	l := newSlow(16, 2)
	unique := uint64(0)
	add := func(owner uint64, key NodeID) (request, bool) {
		unique++
		r := request{unique: unique, owner: owner, op: opRead, id: key}
		return r, l.begin(r)
	}
	first, _ := add('a', 1)
	if _, ok := add('a', 2); !ok {
		t.Fatal("a free worker is not used")
	}
	if _, ok := add('a', 3); ok {
		t.Fatal("a third worker of one owner")
	}
	if _, ok := add('b', 1); ok {
		t.Fatal("two workers for one key")
	}
	a, ok := l.next(first)
	b, ok2 := l.hire()
	if !ok || !ok2 || a.unique != 3 || b.unique != 4 {
		t.Errorf("next %v %d, hired %v %d; want 3 and 4", ok, a.unique, ok2, b.unique)
	}
	if _, ok := l.hire(); ok || l.running != 3 {
		t.Errorf("%d workers run, want 3", l.running)
	}
}

func TestAnOwnerIsRefusedBeforeItTakesTheRecordsOfOthers(t *testing.T) {
	l := newSlow(16, 2)
	for i := range maxOwned {
		if l.isFull('a') {
			t.Fatalf("full after %d", i)
		}
		l.begin(request{unique: uint64(i), owner: 'a', node: &node{}})
	}
	if !l.isFull('a') || l.isFull('b') {
		t.Errorf("a is full: %v, b: %v", l.isFull('a'), l.isFull('b'))
	}
	if alone := newSlow(16, 16); alone.isFull('a') {
		t.Error("where there are no owners one is full")
	}
}

// meeting is a Source whose calls after the first return when two of them run.
type meeting struct {
	calls atomic.Int32
	met   chan struct{}
	alone atomic.Bool
}

func (m *meeting) Append(dst []byte, _ NodeID, _ Caller, _ bool) ([]byte, error) {
	switch m.calls.Add(1) {
	case 1:
	case 3:
		close(m.met)
	default:
		select {
		case <-m.met:
		case <-time.After(10 * time.Second):
			m.alone.Store(true)
		}
	}
	return dst, nil
}

// What a worker has set free is worked on beside what it takes itself.
func TestAWorkerThatIsDoneHires(t *testing.T) {
	m := &meeting{met: make(chan struct{})}
	s, w := deadServer(devNull(t), m)
	request := func(unique uint64, replayed bool) request {
		record, ok := s.journal.note(wire(fuse.ReadIn{InHeader: header(opRead, NodeUptime)}, ""))
		if !ok {
			t.Fatal("no record")
		}
		return request{unique: unique, op: opRead, id: NodeUptime, node: &node{}, size: 100, record: record, replayed: replayed}
	}
	first := request(1, false)
	if !s.slow.begin(first) {
		t.Fatal("a free worker is not used")
	}
	for unique := range uint64(2) {
		if s.slow.begin(request(unique+2, true)) { // is queued, whatever is free
			t.Fatal("not queued")
		}
	}
	w.in = wire(fuse.ReadIn{InHeader: header(opRead, NodeUptime)}, "")
	s.work(w, &s.slow, first)
	s.active.Wait()
	if m.alone.Load() || m.calls.Load() != 3 {
		t.Errorf("%d calls, one at a time: %v", m.calls.Load(), m.alone.Load())
	}
}
