package fs

import (
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// A file handle is epoch, generation and index. The epoch tells the
	// handles of this journal from those of another one that served the same
	// connection before, the generation those that used one index in turn. A
	// generation is never 0, so a file handle is not either.
	indexBits = 16 // 65,536 open handles, 7 MiB
	genBits   = 24
	genShift  = indexBits
	epochBase = indexBits + genBits

	maxHandles = 1 << indexBits
	chunkSize  = 256

	// While crowd handles or more are open, the owners of further ones are asked for,
	// and none gets more than maxHandlesOf. So it takes eight to leave the rest without.
	crowd        = maxHandles / 8
	maxHandlesOf = maxHandles / 8

	// inlineSize holds two numbers of 2^53 hundredths and a blank, which is
	// more than an uptime file.
	inlineSize = 40

	// sizedFor is how long the content made for a GETATTR waits for the
	// read that it was made for. Between the two calls of a program lie
	// microseconds; the rest is for a busy machine.
	sizedFor = 100 * time.Millisecond
)

// handle is an open file. It takes 112 bytes; content of more than inlineSize
// bytes takes a block of the arena besides. It lies in the journal: the order in
// which its fields are stored is such that a process that is killed in between
// leaves a handle that is open or not, and has its content or none.
type handle struct {
	fh uint64 // 0 where it is not open; stored last
	// maker is the unique of the OPEN that made the handle, and then that of
	// the READ or GETATTR that the content was made for. The request may come
	// twice, where a process died between the answer and clearing the journal:
	// the second time it must find what it has made, and not make anew what a
	// reader has begun to read.
	maker uint64
	// sized, where it is not 0, is when the content was made to answer a
	// GETATTR of caller.
	sized  time.Duration
	caller Caller
	node   NodeID
	gen    uint32
	next   int32 // next free index; -1 at the end of the list

	// has says that there is content: the first n bytes of inline, or of the
	// block, where blockOrder is not 0. It is stored last.
	has uint32
	n   uint32
	// block and blockOrder, which is the order and 1, are where it is.
	block      int32
	blockOrder uint8
	// ended says that a read has reached the end of the content, so that
	// nobody is in the middle of it.
	ended  bool
	inline [inlineSize]byte
}

func (h *handle) isOpen() bool { return atomic.LoadUint64(&h.fh) != 0 }

func (h *handle) hasContent() bool { return atomic.LoadUint32(&h.has) != 0 }

// recent is the last handle that a thread opened.
type recent struct {
	pid int
	id  NodeID
	fh  uint64
	at  time.Duration
}

const numRecents = 64

// handles is the table of open files. It is safe for concurrent use. Nothing is
// waited for and nothing is called while its lock is held, so that the reader of
// the connection may take it.
//
// Memory is never given back, but bounded: by the most handles that were ever open
// at once (10,000 of them with uptime's content: 1.1 MiB; 65,536: 7 MiB) and by
// arenaSize for content of all handles together. Beyond that the content of some
// handles is forgotten, to be made anew if they are read on. Where there are too many
// handles further ones are noHandle, whose content is made for each read.
type handles struct {
	mu      sync.Mutex
	header  *journalHeader
	table   []handle
	recents []recent // by thread id; a collision only costs work
	arena   *arena
	free    int32
	inUse   atomic.Int32  // how many are open
	owners  []*ownerCount // of those that were opened in a crowd, by index; nil before the first
	counts  map[uint64]*ownerCount
	adopted map[uint64]int32 // of processes with another journal; until RELEASE
	hand    int32            // the next handle to forget the content of
	start   time.Time
	base    time.Duration // CLOCK_MONOTONIC at start
}

// noHandle is a file handle that has no entry in the table.
const noHandle = 0

// ownerCount is how many handles an owner has opened in a crowd.
type ownerCount struct {
	id   uint64
	open int
}

// newHandles makes the table of what is in the journal.
func newHandles(j *Journal) *handles {
	t := &handles{
		header:  j.header(),
		table:   j.handles(),
		recents: j.recents(),
		arena:   newArena(j.contents()),
		free:    -1,
		counts:  make(map[uint64]*ownerCount),
		adopted: make(map[uint64]int32),
		start:   time.Now(),
	}
	var ts unix.Timespec
	// The clock is there since Linux 2.6.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	t.base = time.Duration(ts.Nano())
	t.restore()
	return t
}

// restore finds out what a former process has left.
func (t *handles) restore() {
	for i := t.grown() - 1; i >= 0; i-- {
		h := &t.table[i]
		if !h.isOpen() {
			t.discard(i)
			continue
		}
		t.inUse.Add(1)
		if h.fh != t.own(i) {
			t.adopted[h.fh] = i
		}
		fits := int(h.n) <= inlineSize
		if !h.hasContent() {
			h.blockOrder = 0 // which need not be true then
		}
		if h.blockOrder != 0 {
			order := int(h.blockOrder) - 1
			fits = t.arena.reserve(h.block, order)
			if !fits {
				h.blockOrder = 0
			}
			fits = fits && int(h.n) <= 1<<(order+minBlockBits)
		}
		if !h.hasContent() || !fits {
			t.forget(h)
		}
	}
}

func (t *handles) grown() int32 {
	return int32(min(atomic.LoadUint32(&t.header.grown), maxHandles))
}

// own is the file handle that the entry i has for a file of this epoch.
func (t *handles) own(i int32) uint64 {
	return t.header.epoch | uint64(t.table[i].gen)<<genShift | uint64(i)
}

// now is never 0, which stands for never. It runs on from process to process.
func (t *handles) now() time.Duration { return t.base + time.Since(t.start) }

// isCrowded tells whether the owner of the next handle has to be known.
func (t *handles) isCrowded() bool { return t.inUse.Load() >= crowd }

// open makes a handle without content, or noHandle where there are too many. The
// OPEN may be one that a former process has answered, or not.
func (t *handles) open(id NodeID, c Caller, unique uint64) (fh uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.openLocked(id, c, unique)
}

// openFor is open for an owner, and false where that has too many.
func (t *handles) openFor(owner uint64, id NodeID, c Caller, unique uint64) (fh uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.counts[owner]
	if o == nil {
		o = &ownerCount{id: owner}
	}
	if o.open >= maxHandlesOf {
		return noHandle, false
	}
	fh = t.openLocked(id, c, unique)
	if fh != noHandle {
		if t.owners == nil {
			t.owners = make([]*ownerCount, maxHandles)
		}
		o.open++
		t.owners[t.index(t.get(fh))], t.counts[owner] = o, o
	}
	return fh, true
}

func (t *handles) openLocked(id NodeID, c Caller, unique uint64) (fh uint64) {
	h := t.entry()
	if h == nil {
		return noHandle
	}
	h.node, h.maker = id, unique
	fh = t.own(t.index(h))
	atomic.StoreUint64(&h.fh, fh)
	if c.PID != 0 {
		t.recents[c.PID%numRecents] = recent{c.PID, id, fh, t.now()}
	}
	return fh
}

// openedBy returns the handle that the OPEN unique has made, noHandle where it has
// made none.
func (t *handles) openedBy(unique uint64, id NodeID) (fh uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.table[:t.grown()] {
		if h := &t.table[i]; h.isOpen() && h.maker == unique && h.node == id {
			return h.fh
		}
	}
	return noHandle
}

// entry takes an entry off the list of free ones, nil where there are too many.
func (t *handles) entry() *handle {
	if t.free < 0 && !t.grow() {
		return nil
	}
	h := &t.table[t.free]
	t.free = h.next
	t.inUse.Add(1)
	return h
}

func (t *handles) index(h *handle) int32 {
	return int32((uintptr(unsafe.Pointer(h)) - uintptr(unsafe.Pointer(&t.table[0]))) / unsafe.Sizeof(handle{}))
}

// grow adds a chunk of free handles.
func (t *handles) grow() bool {
	base := t.grown()
	if base >= maxHandles {
		return false
	}
	for i := base + chunkSize - 1; i >= base; i-- {
		t.table[i].gen = 0
		t.discard(i)
	}
	atomic.StoreUint32(&t.header.grown, uint32(base+chunkSize))
	return true
}

// discard makes the entry i free for a handle of the next generation.
func (t *handles) discard(i int32) {
	h := &t.table[i]
	gen := (h.gen + 1) & (1<<genBits - 1)
	*h = handle{gen: max(gen, 1), next: t.free}
	t.free = i
}

// get returns nil for a handle that is not open.
func (t *handles) get(fh uint64) *handle {
	if fh == noHandle {
		return nil
	}
	if i := int32(fh & (maxHandles - 1)); i < t.grown() && t.table[i].fh == fh {
		return &t.table[i]
	}
	if len(t.adopted) == 0 {
		return nil
	}
	if i, ok := t.adopted[fh]; ok {
		return &t.table[i]
	}
	return nil
}

// adopt makes a handle of the kernel's known, which a process with another journal
// has opened. It must be called by the reader of the connection, before anybody
// else can read the RELEASE of fh: else the handle would stay for ever.
func (t *handles) adopt(fh uint64, id NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fh == noHandle || t.get(fh) != nil {
		return
	}
	h := t.entry()
	if h == nil {
		return
	}
	h.node = id
	t.adopted[fh] = t.index(h)
	atomic.StoreUint64(&h.fh, fh)
}

// release forgets fh, if it is known.
func (t *handles) release(fh uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	if h == nil {
		return
	}
	atomic.StoreUint64(&h.fh, 0)
	delete(t.adopted, fh)
	t.forget(h)
	i := t.index(h)
	t.discard(i)
	t.inUse.Add(-1)
	if t.owners == nil || t.owners[i] == nil {
		return
	}
	o := t.owners[i]
	t.owners[i] = nil
	if o.open--; o.open == 0 {
		delete(t.counts, o.id)
	}
}

// lastOpened returns the handle that the thread pid opened last, if it is of
// node id, else 0. It may have been released since.
func (t *handles) lastOpened(pid int, id NodeID) uint64 {
	if pid == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Not for long: the number may be another thread's by and by.
	if r := t.recents[pid%numRecents]; r.pid == pid && r.id == id && t.now()-r.at < sizedFor {
		return r.fh
	}
	return noHandle
}
