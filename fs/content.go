// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"slices"
	"sync/atomic"
	"syscall"
)

// What a caller gets when there is no room.
const (
	// errTooManyFiles: the owner has its share of open files.
	errTooManyFiles = syscall.ENFILE
	// errNoRoom: the owner has its share of texts, or others leave nothing. A read whose
	// buffer takes the whole text needs no room.
	errNoRoom = syscall.ENOBUFS
	// errTextGone: newer texts of the owner have taken the room of this one. A read at
	// offset 0 begins another.
	errTextGone = syscall.ESTALE
)

// What there is of a handle's text (handle.has).
const (
	textNone = iota
	textKept
	// textGone is a text that was answered from and is not kept.
	textGone
)

// unknownEnd is the end of a text that a process with another journal has begun.
const unknownEnd = ^uint32(0)

func (h *handle) hasText() bool { return atomic.LoadUint32(&h.has) == textKept }

// inArena reports whether the text of h takes pieces of the arena.
func (h *handle) inArena() bool { return h.hasText() && h.n > inlineSize }

// isBusy reports whether somebody has begun to read the text of h and not come to its end.
func (h *handle) isBusy() bool { return h.hasText() && h.sized == 0 && !h.ended }

// read appends to dst what the READ r is answered from the text of its handle. It returns
// false if a text has to be made: if there is none, and at offset 0, where it is another one
// unless it has just been made for the caller's GETATTR, or for this very request by a
// process that died.
//
// A text that was begun and is gone is not made again: r gets the end of file behind its
// end, else errTextGone.
func (t *handles) read(dst []byte, r *request) (_ []byte, ok bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(r.fh)
	if h == nil {
		return dst, false, nil
	}
	kept, sized := h.hasText(), h.sized != 0
	switch {
	case r.off == 0:
		fresh := sized && h.caller == r.caller && t.now()-h.sized < sizedFor
		again := !sized && h.maker == r.unique
		if !kept || !fresh && !again {
			return dst, false, nil
		}
		h.maker = r.unique
	case h.begun && (!kept || sized) && r.off >= uint64(h.end):
		return dst, true, nil
	case h.begun && !kept && h.end != unknownEnd:
		return dst, true, errTextGone
	case !kept || sized && h.caller != r.caller:
		// What was made for the GETATTR of one caller is no other caller's to read.
		return dst, false, nil
	}
	if sized {
		h.begin()
		t.reorder(h)
	}
	size := min(uint64(r.size), uint64(h.n)-min(r.off, uint64(h.n)))
	if r.off+size >= uint64(h.n) && !h.ended {
		h.ended = true
		t.reorder(h)
	}
	dst = slices.Grow(dst, int(size))
	if h.n <= inlineSize {
		return append(dst, part(h.inline[:h.n], r.off, int(size))...), true, nil
	}
	return t.arena.appendPart(dst, h.piece, int(r.off), int(size)), true, nil
}

// begin notes that the text of h, of h.n bytes, is being read.
func (h *handle) begin() {
	h.sized, h.ended, h.begun, h.end = 0, false, true, h.n
}

// part is what a read of at most size bytes at off returns of content.
func part(content []byte, off uint64, size int) []byte {
	if off >= uint64(len(content)) {
		return nil
	}
	content = content[off:]
	return content[:min(size, len(content))]
}

// keep makes content, made for the READ r of a caller of owner, the text of r.fh, of which
// r gets size bytes. An error is what r is to be answered.
func (t *handles) keep(r *request, owner uint64, content []byte, size int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.learn(r.caller.PID, owner)
	n := uint64(len(content))
	whole := r.off+uint64(size) >= n
	h := t.get(r.fh)
	switch {
	case h == nil:
		// It has been released meanwhile, or could not be adopted.
		return notKept(r.off, n, whole)
	case r.replayed() && h.maker > r.unique:
		// The answer was given before, and the caller has begun anew since.
		return nil
	case r.replayed() && h.maker == r.unique && h.has == textGone:
		// The answer may have been given before. The text ends where the shorter of the
		// two ends.
		h.end = min(h.end, uint32(n))
		return notKept(r.off, n, whole)
	case r.off > 0 && h.begun && !h.hasText():
		// The rest of a text whose end is not known.
		if r.off < n {
			return errTextGone
		}
		h.end = uint32(n)
		return nil
	}
	stored := t.store(h, owner, content, !whole)
	if !stored && !whole {
		return errNoRoom
	}
	h.n = uint32(n)
	h.begin()
	h.ended, h.maker = whole, r.unique
	if stored {
		atomic.StoreUint32(&h.has, textKept)
	} else {
		atomic.StoreUint32(&h.has, textGone)
	}
	return nil
}

// notKept is the answer to a read at off of a text of n bytes that cannot be kept.
func notKept(off, n uint64, whole bool) error {
	switch {
	case off > 0 && off < n:
		return errTextGone
	case !whole:
		return errNoRoom
	}
	return nil
}

// keepSized makes content, made for the GETATTR r of a caller of owner, the text of fh for
// a read of the same caller. It does nothing if fh is another file's.
func (t *handles) keepSized(fh uint64, r *request, owner uint64, content []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.learn(r.caller.PID, owner)
	h := t.get(fh)
	if h == nil || h.node != r.id || r.replayed() && h.hasText() || h.begun && h.end == unknownEnd {
		return
	}
	if !t.store(h, owner, content, false) {
		return
	}
	h.n = uint32(len(content))
	h.maker, h.sized, h.caller = r.unique, t.now(), r.caller
	atomic.StoreUint32(&h.has, textKept)
}

// length returns the length of the text that r.caller has begun to read by fh, or that a
// GETATTR of the same caller has just made; ok is false if there is none.
func (t *handles) length(fh uint64, r *request) (n int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.get(fh)
	switch {
	case h == nil:
	case h.hasText() && h.sized != 0:
		return int(h.n), h.maker == r.unique || h.caller == r.caller && t.now()-h.sized < sizedFor
	case h.begun && !h.ended && h.end != unknownEnd:
		return int(h.end), true
	}
	return 0, false
}

// store accounts h to owner and stores content for it. It returns false if there is no room;
// texts of the owner that somebody is in the middle of reading make some only if needed is
// set. What else there is to say of the text the caller fills in, h.has last.
func (t *handles) store(h *handle, owner uint64, content []byte, needed bool) bool {
	o := t.charge(h, owner)
	t.dropText(h)
	if len(content) <= inlineSize {
		copy(h.inline[:], content)
		return true
	}
	n := piecesFor(len(content))
	if !t.makeRoom(o, n, needed) {
		return false
	}
	h.piece = t.arena.store(content)
	o.pieces += n
	t.link(o, h, !needed)
	return true
}

// dropText forgets the text of h, but not that it was begun.
func (t *handles) dropText(h *handle) {
	inArena := h.inArena()
	atomic.StoreUint32(&h.has, textNone)
	if inArena {
		o := t.account(h.owner)
		t.unlink(o, h)
		t.arena.drop(h.piece)
		o.pieces -= piecesFor(int(h.n))
	}
	h.sized = 0
}

// reorder puts h where it belongs in its owner's list, if it is in it.
func (t *handles) reorder(h *handle) {
	if h.inArena() {
		o := t.account(h.owner)
		t.unlink(o, h)
		t.link(o, h, !h.isBusy())
	}
}
