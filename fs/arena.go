package fs

import "math/bits"

const (
	// arenaSize is what the content of all handles together takes at most, in
	// bytes.
	arenaSize = 32 << 20
	// minBlockBits is the smallest block, 256 bytes: shorter than most of the
	// files, and what is shorter than inlineSize needs none.
	minBlockBits = 8
	maxBlockBits = 24 // 16 MiB: cpuinfo of the kernel's 8192 CPUs
	numOrders    = maxBlockBits - minBlockBits + 1
	numBlocks    = arenaSize >> minBlockBits
)

// arena gives out blocks of the journal's contents: a buddy allocator, whose
// blocks are powers of two. What is free is not written down there but follows
// from the handles, so that a process that is killed in the middle of something
// leaves nothing inconsistent. It is not safe for concurrent use.
//
// A block is named by the number of its first 256 bytes.
type arena struct {
	mem  []byte
	used int // in bytes
	// free has the first free block of each order, -1 at the end of a list.
	free [numOrders]int32
	// next and prev link the free blocks of one order.
	next, prev []int32
	// state is the order and 1 of the block that starts here, and stateFree
	// where it is free; 0 where no block starts.
	state []uint8
}

const stateFree = 0x80

func newArena(mem []byte) *arena {
	a := &arena{
		mem:   mem,
		next:  make([]int32, numBlocks),
		prev:  make([]int32, numBlocks),
		state: make([]uint8, numBlocks),
	}
	for o := range a.free {
		a.free[o] = -1
	}
	for at := int32(numBlocks - 1<<(numOrders-1)); at >= 0; at -= 1 << (numOrders - 1) {
		a.push(at, numOrders-1)
	}
	return a
}

// orderFor returns the order of the smallest block for n bytes, and numOrders
// where there is none.
func orderFor(n int) int {
	return min(max(bits.Len(uint(max(n, 1)-1)), minBlockBits)-minBlockBits, numOrders)
}

// block returns the memory of a block.
func (a *arena) block(at int32, order int) []byte {
	start := int(at) << minBlockBits
	end := start + 1<<(order+minBlockBits)
	return a.mem[start:end:end]
}

func (a *arena) push(at int32, order int) {
	a.state[at] = stateFree | uint8(order+1)
	a.prev[at], a.next[at] = -1, a.free[order]
	if n := a.free[order]; n >= 0 {
		a.prev[n] = at
	}
	a.free[order] = at
}

func (a *arena) take(at int32, order int) {
	if p := a.prev[at]; p >= 0 {
		a.next[p] = a.next[at]
	} else {
		a.free[order] = a.next[at]
	}
	if n := a.next[at]; n >= 0 {
		a.prev[n] = a.prev[at]
	}
	a.state[at] = 0
}

// get takes a free block.
func (a *arena) get(order int) (at int32, ok bool) {
	for o := order; o < numOrders; o++ {
		if at = a.free[o]; at >= 0 {
			a.take(at, o)
			a.split(at, at, o, order)
			return at, true
		}
	}
	return 0, false
}

// split makes the block want of the given order out of the block at, which is in
// no list, and gives the rest back.
func (a *arena) split(at, want int32, from, order int) {
	for o := from; o > order; {
		o--
		half := at + 1<<o
		if want >= half {
			a.push(at, o)
			at = half
		} else {
			a.push(half, o)
		}
	}
	a.state[at] = uint8(order + 1)
	a.used += 1 << (order + minBlockBits)
}

// reserve takes a certain block, if it is free. Numbers that are no block's are
// none.
func (a *arena) reserve(want int32, order int) bool {
	if want < 0 || want >= numBlocks || order < 0 || order >= numOrders || want&(1<<order-1) != 0 {
		return false
	}
	for o := order; o < numOrders; o++ {
		if at := want &^ (1<<o - 1); a.state[at] == stateFree|uint8(o+1) {
			a.take(at, o)
			a.split(at, want, o, order)
			return true
		}
	}
	return false
}

// put gives a block back.
func (a *arena) put(at int32, order int) {
	a.used -= 1 << (order + minBlockBits)
	a.state[at] = 0
	for ; order < numOrders-1; order++ {
		buddy := at ^ 1<<order
		if a.state[buddy] != stateFree|uint8(order+1) {
			break
		}
		a.take(buddy, order)
		at = min(at, buddy)
	}
	a.push(at, order)
}
