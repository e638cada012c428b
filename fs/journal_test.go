// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"vprocfs/fs/journal"
)

func TestTextsOfTheArenaNeverOverlap(t *testing.T) {
	mem, links := make([]byte, arenaSize), make([]int32, numPieces)
	a := newArena(mem, links)
	type text struct {
		first int32
		n     int
		mark  byte
	}
	var held []text
	check := func(a *arena, x text) {
		t.Helper()
		off := rand.IntN(x.n)
		got := a.appendPart(nil, x.first, off, x.n-off)
		if want := bytes.Repeat([]byte{x.mark}, x.n-off); !bytes.Equal(got, want) {
			t.Fatalf("a text of %d bytes, from %d on, was written to", x.n, off)
		}
	}
	for i := range 20_000 {
		if len(held) > 0 && rand.IntN(5) < 2 {
			n := rand.IntN(len(held))
			check(a, held[n])
			a.drop(held[n].first)
			held[n] = held[len(held)-1]
			held = held[:len(held)-1]
			continue
		}
		n := 1 + rand.IntN(1<<rand.IntN(16))
		if piecesFor(n) > a.left() {
			continue
		}
		mark := byte(i)
		held = append(held, text{a.store(bytes.Repeat([]byte{mark}, n)), n, mark})
	}
	// Another arena is told which texts there are, in any order.
	again := newArena(mem, links)
	chains := again.restore()
	for _, i := range rand.Perm(len(held)) {
		if !chains.claim(held[i].first, piecesFor(held[i].n)) {
			t.Fatalf("a text of %d bytes is not found again", held[i].n)
		}
		if chains.claim(held[i].first, piecesFor(held[i].n)) {
			t.Fatal("a text is found twice")
		}
	}
	chains.finish()
	if a.used != again.used {
		t.Errorf("%d pieces are in use, %d after a restart", a.used, again.used)
	}
	rest := again.store(bytes.Repeat([]byte{1}, again.left()*pieceSize))
	for _, x := range held {
		check(again, x)
		again.drop(x.first)
	}
	again.drop(rest)
	if again.used != 0 {
		t.Errorf("%d pieces are in use of no text", again.used)
	}
}

// pass gives a journal on as from one process to the next.
func pass(t testing.TB, j *journal.Journal) *journal.Journal {
	t.Helper()
	fd, err := j.Leave()
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := OpenJournal(fd, -1)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func newTestJournal(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := NewJournal(&Conn{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// note notes a request as the reader does.
func note(t testing.TB, j *journal.Journal, b []byte) {
	t.Helper()
	r := j.Received(copy(j.Slot(), b))
	if !r.Note() {
		t.Fatal("no record")
	}
}

// replayed returns a request that a former process has left.
func replayed(t testing.TB) journal.Request {
	t.Helper()
	j := newTestJournal(t)
	note(t, j, wire(header(opRead, NodeStat), ""))
	j = pass(t, j)
	t.Cleanup(func() { j.Close() })
	return j.TakeUp(false).Ready[0]
}

func TestHandlesAndTheirContentOutliveTheProcess(t *testing.T) {
	j := newTestJournal(t)
	h := newHandles(layOut(j))
	contents := make(map[uint64][]byte)
	for i := range 3000 {
		fh := opened(t, h, NodeStat, Caller{PID: i}, uint64(2*i+2))
		if i%7 == 0 {
			h.release(fh)
			continue
		}
		if i%100 == 0 {
			// One of a process before this one.
			fh = rand.Uint64()
			h.adopt(fh, NodeStat)
		}
		content := bytes.Repeat([]byte{byte(i)}, rand.IntN(3000))
		if i%5 == 0 {
			content = content[:min(len(content), inlineSize)]
		}
		if err := h.keep(reading(fh, 0, 0, Caller{}), uint64(i%3), content, 1); err != nil {
			t.Fatal(err)
		}
		contents[fh] = content
	}
	used := h.arena.used
	for range 3 {
		j = pass(t, j)
		h = newHandles(layOut(j))
		if h.arena.used != used {
			t.Fatalf("%d pieces are in use, were %d", h.arena.used, used)
		}
		for fh, want := range contents {
			got, ok := got(t, h, reading(fh, 1, 1<<20, Caller{}))
			if !ok || got != string(want[min(1, len(want)):]) {
				t.Fatalf("%#x: %d bytes, %t", fh, len(got), ok)
			}
		}
		fh := opened(t, h, NodeUptime, Caller{PID: 9}, 99)
		if contents[fh] != nil {
			t.Fatalf("%#x is given out twice", fh)
		}
		h.release(fh)
	}
	for fh := range contents {
		h.release(fh)
	}
	if h.arena.used != 0 || len(h.adopted) != 0 {
		t.Errorf("%d pieces are kept of no handle, %d adopted", h.arena.used, len(h.adopted))
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// A process can die between the answer and striking the request out of the
// journal. The next one must not answer it with anything else, nor change what the
// caller has begun to read.
func TestARequestThatComesTwiceFindsWhatItMade(t *testing.T) {
	h := testHandles(t)
	c := Caller{PID: 7}
	fh := opened(t, h, NodeStat, c, 50)
	if got := h.openedBy(50, NodeStat); got != fh {
		t.Errorf("OPEN again: %#x, want %#x", got, fh)
	}
	r := reading(fh, 0, 3, c)
	kept(t, h, r, "content", 3)
	r.entry = replayed(t)
	if got, ok := got(t, h, r); !ok || got != "con" {
		t.Errorf("READ again: %q %t", got, ok)
	}
	stat := reading(fh, 0, 0, c)
	h.keepSized(fh, stat, 0, []byte("content 2"))
	if n, ok := h.length(fh, stat); !ok || n != 9 {
		t.Errorf("GETATTR again: %d %t", n, ok)
	}
	// The READ that takes what the GETATTR made, and then the same again.
	r = reading(fh, 0, 9, c)
	for range 2 {
		if got, ok := got(t, h, r); !ok || got != "content 2" {
			t.Errorf("READ after GETATTR: %q %t", got, ok)
		}
	}
	// It was answered, and the caller is in the middle of another content.
	old := *r
	old.entry = replayed(t)
	kept(t, h, reading(fh, 0, 3, c), "content 3", 3)
	if _, ok := got(t, h, &old); ok {
		t.Error("the old READ is answered from the new content")
	}
	kept(t, h, &old, "too late", 3)
	if got, _ := got(t, h, reading(fh, 3, 100, c)); got != "tent 3" {
		t.Errorf("the reader goes on with %q", got)
	}
}

// A request that there is no record for is refused: it must neither wait in the memory
// of this process only, nor be executed while all others wait.
func TestAFullJournalRefuses(t *testing.T) {
	var ends [2]int
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	src := &blockingContent{}
	s, w := deadServer(ends[0], src)
	for range journal.MaxRecords {
		note(t, s.journal, wire(header(opRead, NodeStat), ""))
	}
	b := wire(fuse.ReadIn{InHeader: header(opRead, NodeStat), Size: 100, ReadFlags: fuse.READ_LOCKOWNER}, "")
	if execute(s, w, b) {
		t.Error("the reader's role is handed on")
	}
	var reply [8]uint64
	if n, err := unix.Read(ends[1], unsafe.Slice((*byte)(unsafe.Pointer(&reply)), 64)); err != nil || n != outHeaderSize {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if h := (*fuse.OutHeader)(unsafe.Pointer(&reply)); h.Status != -int32(unix.EAGAIN) || src.made {
		t.Errorf("status %d, executed: %v", h.Status, src.made)
	}
}

// blockingContent is a Source that always blocks.
type blockingContent struct{ made bool }

func (*blockingContent) Owner(Caller) uint64 { return 1 }

func (c *blockingContent) Append(dst []byte, _ NodeID, t *Turn) ([]byte, error) {
	if err := t.Block(0); err != nil {
		return dst, err
	}
	c.made = true
	return append(dst, "content"...), nil
}

func TestHandlesOfAnotherFormAreNotUsed(t *testing.T) {
	j := newTestJournal(t)
	h := newHandles(layOut(j))
	fh := opened(t, h, NodeStat, Caller{PID: 1}, 2)
	epoch := layOut(j).header.epoch
	fd, err := j.Leave()
	if err != nil {
		t.Fatal(err)
	}
	other := areaLayout()
	other.Version++
	other.Size += 4096
	if j, err = journal.Open(fd, other); err != nil {
		t.Fatal(err)
	}
	j = pass(t, j)
	h = newHandles(layOut(j))
	if layOut(j).header.epoch == epoch || h.get(fh) != nil || h.grown() != 0 {
		t.Error("handles of an unknown form are used")
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestTheJournalRemembersTheFileSystem(t *testing.T) {
	j, err := NewJournal(&Conn{}, 42)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := j.Leave()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if dev, err := journal.Dev(fd); dev != 42 {
		t.Errorf("it has the number %d, %v", dev, err)
	}
}

// TestRecordsHoldWhatIsNeeded: what may block is a fixed-size struct and a name, or the
// first bytes of a text.
func TestRecordsHoldWhatIsNeeded(t *testing.T) {
	for what, size := range map[string]int{
		"LOOKUP": inHeaderSize + maxName + 1,
		"WRITE":  int(unsafe.Sizeof(fuse.WriteIn{})) + maxText,
		"READ":   int(unsafe.Sizeof(fuse.ReadIn{})),
	} {
		if size > journal.MaxNoted {
			t.Errorf("%s takes %d bytes", what, size)
		}
	}
}

// FuzzJournal starts a server on a journal with anything in it: no panic, and
// handles that are open have content that is theirs alone.
func FuzzJournal(f *testing.F) {
	f.Add([]byte{}, uint32(0), uint32(0))
	f.Add([]byte(strings.Repeat("\x01", 500)), uint32(256), uint32(3))
	f.Fuzz(func(t *testing.T, b []byte, grown, records uint32) {
		j := newTestJournal(t)
		a := layOut(j)
		handles := unsafe.Slice((*byte)(unsafe.Pointer(&a.handles)), 4*unsafe.Sizeof(handle{}))
		copy(handles, b[:len(b)/2])
		a.header.grown = grown % 1024
		for i := range records % 16 {
			note(t, j, b[min(int(i), len(b)):])
		}
		copy(j.Slot(), b)
		j = pass(t, j)
		defer j.Close()
		s := NewTestServer(NewConn(devNull(t)), content("content"), ServerOptions{Journal: j, Crashed: len(b)%2 == 0})
		s.stop.Store(true)
		if err := s.Serve(); err != nil {
			t.Error(err)
		}
		used := 0
		for i := range s.handles.table[:s.handles.grown()] {
			if h := &s.handles.table[i]; h.isOpen() && h.inArena() {
				used += piecesFor(int(h.n))
				s.handles.arena.appendPart(nil, h.piece, 0, int(h.n))
			}
		}
		if used != s.handles.arena.used {
			t.Errorf("%d pieces are in use, the handles have %d", s.handles.arena.used, used)
		}
	})
}
