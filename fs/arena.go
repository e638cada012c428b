// SPDX-License-Identifier: Apache-2.0

package fs

const (
	// arenaSize bounds the texts of all handles together, in bytes.
	arenaSize = 32 << 20
	// pieceSize is what a text takes at least, in bytes, when it does not fit into
	// its handle.
	pieceSize = 1 << 10
	numPieces = arenaSize / pieceSize
	// noPiece ends a chain.
	noPiece = -1
)

// arena stores texts in chains of pieces, so that free pieces fit a text of any length.
// Texts and links lie in the journal; which pieces are free follows from the handles.
// It is not safe for concurrent use.
type arena struct {
	mem  []byte
	next []int32 // the piece after this one, in a chain or in the list of free ones
	free int32   // the first free piece, noPiece if there is none
	// Pieces from fresh on have never been used: their memory costs nothing yet.
	fresh int32
	used  int // pieces
}

func newArena(mem []byte, links []int32) *arena {
	return &arena{mem: mem, next: links, free: noPiece}
}

// piecesFor returns how many pieces a text of n bytes takes.
func piecesFor(n int) int { return (n + pieceSize - 1) / pieceSize }

// left returns how many pieces are free.
func (a *arena) left() int { return numPieces - a.used }

func (a *arena) piece(i int32) []byte {
	at := int(i) * pieceSize
	return a.mem[at : at+pieceSize : at+pieceSize]
}

func (a *arena) get() int32 {
	i := a.free
	if i != noPiece {
		a.free = a.next[i]
	} else {
		i = a.fresh
		a.fresh++
	}
	a.used++
	return i
}

// store copies text, which is not empty and fits into what is left, into a chain.
func (a *arena) store(text []byte) (first int32) {
	last := int32(noPiece)
	for len(text) > 0 {
		i := a.get()
		if last == noPiece {
			first = i
		} else {
			a.next[last] = i
		}
		text = text[copy(a.piece(i), text):]
		last = i
	}
	a.next[last] = noPiece
	return first
}

// drop frees the chain that starts at first.
func (a *arena) drop(first int32) {
	for i := first; i != noPiece; {
		next := a.next[i]
		a.next[i], a.free = a.free, i
		a.used--
		i = next
	}
}

// appendPart appends size bytes of a chain from the offset off on, which must be there.
func (a *arena) appendPart(dst []byte, first int32, off, size int) []byte {
	for ; size > 0 && off >= pieceSize; off -= pieceSize {
		first = a.next[first]
	}
	for size > 0 {
		p := a.piece(first)[off:]
		p = p[:min(size, len(p))]
		dst = append(dst, p...)
		size -= len(p)
		first, off = a.next[first], 0
	}
	return dst
}

// restore takes the chains of a former process over: claim is called for each of its
// texts, and then finish once.
type restore struct {
	*arena
	taken []bool
}

func (a *arena) restore() *restore { return &restore{a, make([]bool, numPieces)} }

// claim reports whether the chain that starts at first is one of n pieces that no other
// text has, and takes it.
func (r *restore) claim(first int32, n int) bool {
	last, i := int32(noPiece), first
	for claimed := range n {
		if i < 0 || i >= numPieces || r.taken[i] {
			r.unclaim(first, claimed)
			return false
		}
		r.taken[i] = true
		last, i = i, r.next[i]
	}
	if last != noPiece {
		r.next[last] = noPiece
	}
	r.used += n
	return true
}

func (r *restore) unclaim(first int32, n int) {
	for i := first; n > 0; n-- {
		r.taken[i] = false
		i = r.next[i]
	}
}

// finish finds out which pieces are free.
func (r *restore) finish() {
	for i := range int32(numPieces) {
		if r.taken[i] {
			r.fresh = i + 1
		}
	}
	for i := r.fresh - 1; i >= 0; i-- {
		if !r.taken[i] {
			r.next[i], r.free = r.free, i
		}
	}
}
