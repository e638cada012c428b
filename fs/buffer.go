package fs

import "math/bits"

const (
	// minBufferBits and maxBufferBits bound the size classes: powers of two
	// from 64 bytes to 256 KiB. Larger buffers are left to the garbage
	// collector.
	minBufferBits = 6
	maxBufferBits = 18
	// keepBytes is what one size class holds back at most, so all of them
	// hold less than 4 MiB, and that only after a burst of open files.
	keepBytes = 256 << 10
)

// buffers recycles memory by size class. sync.Pool would do, but it makes garbage
// of its own when a slice goes in, and a collection empties it in the middle of
// the road that must not allocate. It is not safe for concurrent use.
type buffers struct {
	free [maxBufferBits - minBufferBits + 1][][]byte
}

// bufferClass returns the smallest class whose buffers hold n bytes.
func bufferClass(n int) int {
	return max(bits.Len(uint(max(n, 1)-1)), minBufferBits) - minBufferBits
}

// get returns a buffer of length n.
func (b *buffers) get(n int) []byte {
	class := bufferClass(n)
	if class >= len(b.free) {
		return make([]byte, n)
	}
	free := b.free[class]
	if len(free) == 0 {
		return make([]byte, n, 1<<(class+minBufferBits))
	}
	last := len(free) - 1
	buf := free[last]
	free[last] = nil
	b.free[class] = free[:last]
	return buf[:n]
}

// put takes a buffer of get back.
func (b *buffers) put(buf []byte) {
	class := bufferClass(cap(buf))
	if class >= len(b.free) || len(b.free[class])*cap(buf) >= keepBytes {
		return
	}
	b.free[class] = append(b.free[class], buf)
}

// resize returns a buffer of length n, which is buf where its class fits.
func (b *buffers) resize(buf []byte, n int) []byte {
	if buf != nil && n <= cap(buf) && bufferClass(n) == bufferClass(cap(buf)) {
		return buf[:n]
	}
	if buf != nil {
		b.put(buf)
	}
	return b.get(n)
}
