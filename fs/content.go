package fs

import (
	"slices"
	"sync/atomic"
)

// keep makes content, made for r, the content of fh, read up to the offset end. It
// does nothing where fh has been released meanwhile.
func (t *handles) keep(r *request, content []byte, end uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(r.fh)
	if h == nil || r.replayed && h.hasContent() && h.maker > r.unique {
		// The answer was given before, and the caller has begun anew since.
		return
	}
	t.put(h, content, func() {
		h.maker, h.ended = r.unique, end >= uint64(len(content))
	})
}

// keepSized is keep for content that was made for a GETATTR of c and is not read
// yet. It does nothing where fh is another file's.
func (t *handles) keepSized(fh uint64, r *request, content []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	if h == nil || h.node != r.id || r.replayed && h.hasContent() {
		return
	}
	t.put(h, content, func() {
		h.maker, h.sized, h.caller = r.unique, t.now(), r.caller
	})
}

// put makes content the content of h. describe fills in what else there is to say
// of it.
func (t *handles) put(h *handle, content []byte, describe func()) {
	atomic.StoreUint32(&h.has, 0)
	order := orderFor(len(content))
	if len(content) <= inlineSize || h.blockOrder != 0 && int(h.blockOrder)-1 != order {
		t.forget(h)
	}
	dst := h.inline[:]
	if len(content) > inlineSize {
		if h.blockOrder == 0 && !t.allocate(h, order) {
			return
		}
		dst = t.arena.block(h.block, order)
	}
	h.n = uint32(copy(dst, content))
	h.ended, h.sized = false, 0
	describe()
	atomic.StoreUint32(&h.has, 1)
}

// allocate gives h a block. It forgets content of other handles, in turn, where
// there is no room.
func (t *handles) allocate(h *handle, order int) bool {
	if order >= numOrders {
		return false
	}
	at, ok := t.arena.get(order)
	total := t.grown()
	for tries := total; !ok && tries > 0; tries-- {
		t.hand = (t.hand + 1) % total
		if o := &t.table[t.hand]; o.blockOrder != 0 {
			t.forget(o)
			at, ok = t.arena.get(order)
		}
	}
	if ok {
		h.block, h.blockOrder = at, uint8(order+1)
	}
	return ok
}

// forget gives the content of h up.
func (t *handles) forget(h *handle) {
	atomic.StoreUint32(&h.has, 0)
	if h.blockOrder != 0 {
		t.arena.put(h.block, int(h.blockOrder)-1)
		h.blockOrder = 0
	}
	h.n, h.sized = 0, 0
}

// content is what is kept of h.
func (t *handles) content(h *handle) []byte {
	if h.blockOrder != 0 {
		return t.arena.block(h.block, int(h.blockOrder)-1)[:h.n]
	}
	return h.inline[:h.n]
}

// read appends to dst what the read r is to be answered from the kept content of
// its handle; ok is false where it is not: where there is none, and at offset 0,
// where content is made afresh unless it has just been made for the caller's
// GETATTR, or for this very request by a process that died.
func (t *handles) read(dst []byte, r *request) (_ []byte, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(r.fh)
	if h == nil || !h.hasContent() {
		return dst, false
	}
	fresh := h.sized != 0 && h.caller == r.caller && t.now()-h.sized < sizedFor
	// What was made for a GETATTR of one caller is no other caller's to read.
	foreign := h.sized != 0 && h.caller != r.caller
	again := h.sized == 0 && h.maker == r.unique
	if r.off == 0 && !fresh && !again || foreign {
		h.sized = 0
		return dst, false
	}
	if fresh && r.off == 0 {
		h.maker = r.unique
	}
	h.sized = 0
	part := part(t.content(h), r.off, r.size)
	h.ended = h.ended || r.off+uint64(len(part)) >= uint64(h.n)
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

// sizedBy returns the length of the content of fh, and true where it was made for
// the GETATTR unique: by a process that died.
func (t *handles) sizedBy(fh, unique uint64) (n int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	if h == nil || !h.hasContent() || h.sized == 0 || h.maker != unique {
		return 0, false
	}
	return int(h.n), true
}

// inMiddle returns the length of the content of fh, and true where somebody has
// begun to read it and not come to its end.
func (t *handles) inMiddle(fh uint64) (n int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	if h == nil || !h.hasContent() || h.ended || h.sized != 0 {
		return 0, false
	}
	return int(h.n), true
}
