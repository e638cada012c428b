// SPDX-License-Identifier: Apache-2.0

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
	indexBits = 17 // 131,072 open handles, 16 MiB
	genBits   = 23
	genShift  = indexBits
	epochBase = indexBits + genBits

	maxHandles = 1 << indexBits
	chunkSize  = 256

	// While crowd handles or more are open, the owners of further ones are asked for.
	crowd = maxHandles / 8

	// inlineSize holds two numbers of 2^53 hundredths and a blank, which is
	// more than an uptime file.
	inlineSize = 40

	// sizedFor is how long the text made for a GETATTR waits for the read that it was
	// made for, and how long a thread's last OPEN says which handle its fstat(2) means.
	// Between two calls of a program lie microseconds, unless its CPU quota is used up
	// (a period is 100 ms, and at most 1 s).
	sizedFor = time.Second
)

// handle is an open file, 128 bytes in the journal; a text of more than inlineSize bytes
// takes pieces of the arena besides. Its fields are stored in an order in which a process
// that is killed in between leaves a handle that is open or not, and has its text or none.
type handle struct {
	fh uint64 // 0 where it is not open; stored last
	// maker is the unique of the OPEN that made the handle, and then that of the READ or
	// GETATTR that the text was made for. If a process dies between the answer and
	// clearing the journal, the request comes twice: it must find what it has made, and
	// not make anew what a reader has begun to read.
	maker uint64
	// sized, where it is not 0, is when the text was made to answer a GETATTR of
	// caller. It is not begun then.
	sized  time.Duration
	caller Caller
	node   NodeID
	owner  uint64 // whom the handle and its text are accounted to; 0: not known
	gen    uint32
	// next and prev link the handles of one owner with a text in the arena (share.go),
	// next alone the free ones; -1 ends a list.
	next, prev int32

	// has is textKept if there is a text: the first n bytes of inline, or the chain of
	// the arena that starts at piece, if n is more than inlineSize. It is stored last.
	has   uint32
	n     uint32
	piece int32
	// end is the length of the text that was begun last, if begun is set. The text may
	// be gone: it is never made again for a read in the middle.
	end   uint32
	begun bool
	// ended says that a read has reached the end of the text, so that nobody is in the
	// middle of it.
	ended   bool
	counted bool // among the handles of owner
	inline  [inlineSize]byte
}

func (h *handle) isOpen() bool { return atomic.LoadUint64(&h.fh) != 0 }

// recent is the last handle of a file that a thread opened.
type recent struct {
	pid int
	id  NodeID
	fh  uint64
	at  time.Duration
}

// The recents are a table by thread id. Threads whose ids lie numRecents/recentWays apart
// share recentWays entries; one that is pushed out gets a bound for its file's length.
const (
	numRecents = 1024
	recentWays = 4
)

// handles is the table of open files. It is safe for concurrent use. Nothing is waited for
// while its lock is held, so that the reader of the connection may take it.
//
// Memory is never given back, but bounded by the most handles that were ever open at once
// (10,000: 1.3 MiB; 131,072: 16 MiB) and, for all texts together, by arenaSize. share.go has
// what one owner may take of both.
type handles struct {
	mu       sync.Mutex
	header   *areaHeader
	table    []handle
	recents  []recent
	arena    *arena
	free     int32
	inUse    atomic.Int32 // how many are open
	accounts map[uint64]*account
	sweepAt  int // how many accounts there are when empty ones are dropped
	memo     [numMemos]memo
	adopted  map[uint64]int32 // of processes with another journal; until RELEASE
	start    time.Time
	base     time.Duration // CLOCK_MONOTONIC at start
}

// noHandle is never that of an open file.
const noHandle = 0

// newHandles makes the table of what is in the journal.
func newHandles(a *area) *handles {
	t := &handles{
		header:   &a.header,
		table:    a.handles[:],
		recents:  a.recents[:],
		arena:    newArena(a.texts[:], a.links[:]),
		free:     -1,
		accounts: make(map[uint64]*account),
		adopted:  make(map[uint64]int32),
		start:    time.Now(),
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
	chains := t.arena.restore()
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
		if h.counted {
			t.account(h.owner).handles++
		}
		if !h.inArena() {
			continue
		}
		n := piecesFor(int(h.n))
		if !chains.claim(h.piece, n) {
			atomic.StoreUint32(&h.has, 0)
			continue
		}
		o := t.account(h.owner)
		o.pieces += n
		t.link(o, h, !h.isBusy())
	}
	chains.finish()
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

// isFilling reports whether the owner of the next text has to be known.
func (t *handles) isFilling() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.arena.used > numPieces/16
}

// isCrowded reports whether the owner of the next handle has to be known.
func (t *handles) isCrowded() bool { return t.inUse.Load() >= crowd }

// open makes a handle without a text for an owner, 0 if it is not known. errTooManyFiles
// says that the owner has its share. The OPEN may be one that a former process has
// answered, or not.
func (t *handles) open(owner uint64, id NodeID, c Caller, unique uint64) (fh uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := owner != 0 || t.isCrowded()
	if known && !t.mayOpen(t.account(owner)) {
		return noHandle, errTooManyFiles
	}
	h := t.entry()
	if h == nil {
		return noHandle, errTooManyFiles
	}
	if known {
		h.owner, h.counted = owner, true
		t.account(owner).handles++
	}
	h.node, h.maker = id, unique
	fh = t.own(t.index(h))
	atomic.StoreUint64(&h.fh, fh)
	t.noteOpen(c.PID, id, fh)
	t.learn(c.PID, owner)
	return fh, nil
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

// adopt makes a handle known that a process with another journal has opened. The reader of
// the connection must call it before another goroutine can read the RELEASE of fh. A
// RELEASE that comes first would never close the handle.
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
	h.node, h.begun, h.end = id, true, unknownEnd
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
	t.dropText(h)
	t.discharge(h)
	delete(t.adopted, fh)
	t.discard(t.index(h))
	t.inUse.Add(-1)
}

// waysOf returns the recents that the thread pid may have.
func (t *handles) waysOf(pid int) []recent {
	at := pid % (numRecents / recentWays) * recentWays
	return t.recents[at : at+recentWays]
}

// noteOpen notes that the thread pid has opened a file.
func (t *handles) noteOpen(pid int, id NodeID, fh uint64) {
	if pid == 0 {
		return
	}
	ways := t.waysOf(pid)
	oldest := &ways[0]
	for i := range ways {
		r := &ways[i]
		if r.pid == pid && r.id == id {
			oldest = r
			break
		}
		if r.at < oldest.at {
			oldest = r
		}
	}
	*oldest = recent{pid, id, fh, t.now()}
}

// lastOpened returns the handle of node id that the thread pid opened last, if it was just
// now and is open, else noHandle.
func (t *handles) lastOpened(pid int, id NodeID) uint64 {
	if pid == 0 {
		return noHandle
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.waysOf(pid) {
		// Only for a short time: the number may become another thread's.
		if r.pid == pid && r.id == id && t.now()-r.at < sizedFor && t.get(r.fh) != nil {
			return r.fh
		}
	}
	return noHandle
}

// memo is whom a thread was accounted to a moment ago.
type memo struct {
	pid   int
	owner uint64
	at    time.Duration
}

const (
	numMemos = 1024
	// memoFor bounds the age of a memo: thread ids are used again.
	memoFor = time.Second
)

// learn notes the owner of the thread pid, if that is not known from a memo. t.mu is held.
func (t *handles) learn(pid int, owner uint64) {
	if pid == 0 || owner == 0 {
		return
	}
	m, now := &t.memo[pid%numMemos], t.now()
	if m.pid != pid || m.owner != owner || now-m.at >= memoFor {
		*m = memo{pid, owner, now}
	}
}

// learnOwner is learn for those who do not hold t.mu.
func (t *handles) learnOwner(pid int, owner uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.learn(pid, owner)
}

// ownerOf returns the owner of the thread pid; ok is false if it is not known.
func (t *handles) ownerOf(pid int) (owner uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := &t.memo[pid%numMemos]
	return m.owner, m.pid == pid && pid != 0 && t.now()-m.at < memoFor
}
