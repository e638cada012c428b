package fs

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// A file handle is epoch, generation and index. The epoch tells the
	// handles of this process from those of its predecessors on the same
	// connection, the generation those that used one index in turn. A
	// generation is never 0, so a file handle is not either.
	indexBits = 16 // 65,536 open handles, 7 MiB
	genBits   = 24
	genShift  = indexBits
	epochBase = indexBits + genBits

	maxHandles = 1 << indexBits
	chunkSize  = 256

	// inlineSize holds two numbers of 2^53 hundredths and a blank, which is
	// more than an uptime file.
	inlineSize = 40

	// sizedFor is how long the content made for a GETATTR waits for the
	// read that it was made for. Between the two calls of a program lie
	// microseconds; the rest is for a busy machine.
	sizedFor = 100 * time.Millisecond
)

// handle is an open file. It takes 112 bytes; content of more than inlineSize
// bytes takes a buffer of the next power of two besides.
type handle struct {
	gen  uint32
	next int32 // next free index; -1 at the end of the list
	open bool

	// has says that there is content: the first n bytes of inline, or buf
	// where that is not nil.
	has bool
	// ended says that a read has reached the end of the content, so that
	// nobody is in the middle of it.
	ended bool

	// sized, where it is not 0, is when the content was made to answer a
	// GETATTR of caller.
	sized  time.Duration
	caller Caller

	n      int
	buf    []byte
	inline [inlineSize]byte
}

func (h *handle) content() []byte {
	if h.buf != nil {
		return h.buf
	}
	return h.inline[:h.n]
}

// recent is the last handle that a thread opened.
type recent struct {
	pid int
	id  NodeID
	fh  uint64
	at  time.Duration
}

// keepContent bounds the content of all handles together, in bytes. Beyond it the
// content of some handles is forgotten, to be made anew if they are read on.
const keepContent = 32 << 20

// handles is the table of open files. It is safe for concurrent use. Nothing is
// waited for and nothing is called while its lock is held, so that the reader of
// the connection may take it.
//
// Memory is never given back, but bounded: by the most handles that were ever open
// at once (10,000 of them with uptime's content: 1.1 MiB; 65,536: 7 MiB) and by
// keepContent. Whoever opens more than that takes nothing from the others: those
// handles are noHandle, whose content is made for each read.
type handles struct {
	mu      sync.Mutex
	epoch   uint64
	chunks  []*[chunkSize]handle
	free    int32
	adopted map[uint64]*handle // of former processes; until RELEASE
	recents [64]recent         // by thread id; a collision only costs work
	buffers buffers
	kept    int   // bytes in the buffers of handles
	hand    int32 // the next handle to forget the content of
	start   time.Time
}

// noHandle is a file handle that has no entry in the table.
const noHandle = 0

func newHandles() *handles {
	return &handles{
		epoch:   rand.Uint64() >> epochBase << epochBase,
		free:    -1,
		adopted: make(map[uint64]*handle),
		start:   time.Now(),
	}
}

// now is never 0, which stands for never.
func (t *handles) now() time.Duration { return time.Since(t.start) + 1 }

// open makes a handle without content, or noHandle where there are too many.
func (t *handles) open(id NodeID, c Caller) (fh uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free < 0 && !t.grow() {
		return noHandle
	}
	index := t.free
	h := t.at(index)
	t.free = h.next
	h.open = true
	fh = t.epoch | uint64(h.gen)<<genShift | uint64(index)
	if c.PID != 0 {
		t.recents[c.PID%len(t.recents)] = recent{c.PID, id, fh, t.now()}
	}
	return fh
}

// grow adds a chunk of free handles.
func (t *handles) grow() bool {
	base := int32(len(t.chunks) * chunkSize)
	if base >= maxHandles {
		return false
	}
	chunk := new([chunkSize]handle)
	for i := range chunk {
		chunk[i].gen = 1
		chunk[i].next = base + int32(i) + 1
	}
	chunk[chunkSize-1].next = t.free
	t.chunks = append(t.chunks, chunk)
	t.free = base
	return true
}

func (t *handles) at(index int32) *handle {
	return &t.chunks[index/chunkSize][index%chunkSize]
}

// get returns nil for a handle that is not open.
func (t *handles) get(fh uint64) *handle {
	index := int32(fh & (maxHandles - 1))
	if fh>>epochBase<<epochBase == t.epoch && int(index) < len(t.chunks)*chunkSize {
		if h := t.at(index); h.open && uint64(h.gen) == fh>>genShift&(1<<genBits-1) {
			return h
		}
	}
	if len(t.adopted) == 0 {
		return nil
	}
	return t.adopted[fh]
}

// adopt makes a handle of the kernel's known, which a former process has opened.
// It must be called by the reader of the connection, before anybody else can
// read the RELEASE of fh: else the handle would stay for ever.
func (t *handles) adopt(fh uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fh != noHandle && t.get(fh) == nil && len(t.adopted) < maxHandles {
		t.adopted[fh] = &handle{open: true}
	}
}

// release forgets fh, if it is known.
func (t *handles) release(fh uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	if h == nil {
		return
	}
	t.forget(h)
	if t.adopted[fh] == h {
		delete(t.adopted, fh)
		return
	}
	gen := (h.gen + 1) & (1<<genBits - 1)
	*h = handle{gen: max(gen, 1), next: t.free}
	t.free = int32(fh & (maxHandles - 1))
}

// keep makes content the content of fh, read up to the offset end. It does
// nothing where fh has been released meanwhile.
func (t *handles) keep(fh uint64, content []byte, end uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.keepLocked(fh, content); h != nil {
		h.ended = end >= uint64(h.n)
	}
}

// keepSized is keep for content that was made for a GETATTR of c and is not read
// yet.
func (t *handles) keepSized(fh uint64, content []byte, c Caller) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.keepLocked(fh, content); h != nil {
		h.sized, h.caller = t.now(), c
	}
}

func (t *handles) keepLocked(fh uint64, content []byte) *handle {
	h := t.get(fh)
	if h == nil {
		return nil
	}
	t.kept -= cap(h.buf)
	switch {
	case len(content) > inlineSize:
		h.buf = t.buffers.resize(h.buf, len(content))
	case h.buf != nil:
		t.buffers.put(h.buf)
		h.buf = nil
	}
	t.kept += cap(h.buf)
	h.has, h.ended, h.sized = true, false, 0
	h.n = len(content)
	copy(h.content(), content)
	t.makeRoom(h)
	return h
}

// forget gives the content of h up.
func (t *handles) forget(h *handle) {
	if h.buf != nil {
		t.kept -= cap(h.buf)
		t.buffers.put(h.buf)
	}
	h.buf, h.has, h.n, h.sized = nil, false, 0, 0
}

// makeRoom forgets content of other handles than keep, in turn, while too much is
// kept. Those of former processes are few and stay.
func (t *handles) makeRoom(keep *handle) {
	total := int32(len(t.chunks) * chunkSize)
	for tries := total; t.kept > keepContent && tries > 0; tries-- {
		t.hand = (t.hand + 1) % total
		if h := t.at(t.hand); h != keep && h.buf != nil {
			t.forget(h)
		}
	}
}

// read appends to dst what a read of at most size bytes at off by c is to be
// answered from the kept content of fh; ok is false where it is not: where there
// is none, and at offset 0, where content is made afresh unless it has just been
// made for c's GETATTR.
func (t *handles) read(dst []byte, fh, off uint64, size int, c Caller) (_ []byte, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	if h == nil || !h.has {
		return dst, false
	}
	fresh := h.sized != 0 && h.caller == c && t.now()-h.sized < sizedFor
	// What was made for a GETATTR of one caller is no other caller's to read.
	foreign := h.sized != 0 && h.caller != c
	h.sized = 0
	if off == 0 && !fresh || foreign {
		return dst, false
	}
	part := part(h.content(), off, size)
	h.ended = h.ended || off+uint64(len(part)) >= uint64(h.n)
	return append(slices.Grow(dst, len(part)), part...), true
}

// part is what a read of at most size bytes at off returns of content.
func part(content []byte, off uint64, size int) []byte {
	if off >= uint64(len(content)) {
		return nil
	}
	content = content[off:]
	return content[:min(size, len(content))]
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
	if r := t.recents[pid%len(t.recents)]; r.pid == pid && r.id == id && t.now()-r.at < sizedFor {
		return r.fh
	}
	return noHandle
}

// inMiddle returns the length of the content of fh, and true where somebody has
// begun to read it and not come to its end.
func (t *handles) inMiddle(fh uint64) (n int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	if h == nil || !h.has || h.ended || h.sized != 0 {
		return 0, false
	}
	return h.n, true
}
