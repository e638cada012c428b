package cgroup

import "math/bits"

// MulDiv returns a*b/c, rounded down, without overflow in between. It wants
// b <= c and c > 0, so that the result is at most a.
func MulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi, lo, c)
	return q
}
