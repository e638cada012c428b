// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"maps"
	"sync/atomic"
)

// Handles and texts are accounted to owners: one owner's never push out another's. An
// owner may have an eighth of what the others leave, so that however many owners take
// their share there is something left for the next one.

// ownerShare is what part of what the others leave one owner may have: one in 8.
const ownerShare = 8

// spareAccounts is how many accounts are kept though nothing is in them, so that a reader
// who opens, reads and closes makes none.
const spareAccounts = 1024

// account is what one owner has.
type account struct {
	id      uint64
	handles int
	pieces  int
	// first and last are the ends of the list of its handles with a text in the arena,
	// in the order in which they are to make room; -1 if there are none.
	first, last int32
}

// account returns the account of the owner id.
func (t *handles) account(id uint64) *account {
	o := t.accounts[id]
	if o == nil {
		if len(t.accounts) >= t.sweepAt {
			maps.DeleteFunc(t.accounts, func(_ uint64, o *account) bool { return o.handles == 0 && o.pieces == 0 })
			t.sweepAt = 2*len(t.accounts) + spareAccounts
		}
		o = &account{id: id, first: -1, last: -1}
		t.accounts[id] = o
	}
	return o
}

// mayOpen reports whether o may have one more handle.
func (t *handles) mayOpen(o *account) bool {
	left := maxHandles - int(t.inUse.Load()) + o.handles
	return o.handles < left/ownerShare
}

// charge accounts the handle h to the owner id from now on. An owner that is not known,
// 0, leaves h to the one it has.
func (t *handles) charge(h *handle, id uint64) *account {
	if id == 0 || id == h.owner && h.counted {
		return t.account(h.owner)
	}
	t.dropText(h)
	t.discharge(h)
	o := t.account(id)
	h.owner, h.counted = id, true
	o.handles++
	return o
}

// discharge takes h, which has no text in the arena, from its owner.
func (t *handles) discharge(h *handle) {
	if h.counted {
		t.account(h.owner).handles--
		h.counted = false
	}
}

// makeRoom reports whether o may store n more pieces, which it makes true by dropping
// texts of o. Those that nobody is in the middle of reading go first, the others only if
// begunToo is set, oldest first.
func (t *handles) makeRoom(o *account, n int, begunToo bool) bool {
	for {
		left := t.arena.left() + o.pieces
		switch {
		case o.pieces+n <= left/ownerShare:
			return true
		case o.pieces == 0:
			// One text may be larger than the share.
			return n <= left/2
		}
		h := &t.table[o.first]
		if !begunToo && h.isBusy() {
			return false
		}
		t.dropText(h)
		if h.begun {
			atomic.StoreUint32(&h.has, textGone)
		}
	}
}

// link puts h into o's list: at its end, or at its start if it is to go first.
func (t *handles) link(o *account, h *handle, first bool) {
	i := t.index(h)
	h.prev, h.next = o.last, -1
	if first {
		h.prev, h.next = -1, o.first
	}
	if h.prev >= 0 {
		t.table[h.prev].next = i
	} else {
		o.first = i
	}
	if h.next >= 0 {
		t.table[h.next].prev = i
	} else {
		o.last = i
	}
}

// unlink takes h out of o's list.
func (t *handles) unlink(o *account, h *handle) {
	if h.prev >= 0 {
		t.table[h.prev].next = h.next
	} else {
		o.first = h.next
	}
	if h.next >= 0 {
		t.table[h.next].prev = h.prev
	} else {
		o.last = h.prev
	}
}
