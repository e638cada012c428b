// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"math/bits"
	"strconv"

	"vprocfs/procvirt/internal/scan"
)

// MaxCPUs is the largest number of CPUs a set can hold, the kernel's own bound
// (CONFIG_NR_CPUS of x86 and arm64 is at most 8192).
const MaxCPUs = 8192

// CPUs is a set of CPUs by their physical numbers. The zero value is the
// empty set. It is not safe for concurrent use.
type CPUs struct {
	words []uint64
}

// Parse makes s the set that text lists in the kernel's list format, "0-3,8"
// (bitmap_parselist), with or without a newline. Nothing but blanks is the
// empty set. It reuses s's memory. After an error s is empty.
func (s *CPUs) Parse(text []byte) error {
	s.Clear()
	b := text
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	for len(b) > 0 {
		first, n := scan.Uint(b)
		if n == 0 {
			return s.bad(text)
		}
		b = b[n:]
		last := first
		if len(b) > 0 && b[0] == '-' {
			if last, n = scan.Uint(b[1:]); n == 0 {
				return s.bad(text)
			}
			b = b[1+n:]
		}
		if last < first || last >= MaxCPUs {
			return s.bad(text)
		}
		for c := first; c <= last; c++ {
			s.Add(int(c))
		}
		if len(b) > 0 {
			if b[0] != ',' || len(b) == 1 {
				return s.bad(text)
			}
			b = b[1:]
		}
	}
	return nil
}

func (s *CPUs) bad(text []byte) error {
	s.Clear()
	return fmt.Errorf("cpu list %q: not a list of CPUs below %d", text[:min(len(text), 80)], MaxCPUs)
}

// Clear makes s the empty set.
func (s *CPUs) Clear() {
	clear(s.words)
	s.words = s.words[:0]
}

// Add puts cpu, 0 to MaxCPUs-1, into s.
func (s *CPUs) Add(cpu int) {
	w := cpu / 64
	for len(s.words) <= w {
		s.words = append(s.words, 0)
	}
	s.words[w] |= 1 << (cpu % 64)
}

// Remove takes cpu out of s.
func (s *CPUs) Remove(cpu int) {
	if s.Has(cpu) {
		s.words[cpu/64] &^= 1 << (cpu % 64)
	}
}

// Intersect takes out of s what is not in t.
func (s *CPUs) Intersect(t *CPUs) {
	for w := range s.words {
		if w < len(t.words) {
			s.words[w] &= t.words[w]
		} else {
			s.words[w] = 0
		}
	}
}

// Has reports whether cpu is in s.
func (s *CPUs) Has(cpu int) bool {
	return cpu >= 0 && cpu/64 < len(s.words) && s.words[cpu/64]&(1<<(cpu%64)) != 0
}

// Count is the number of CPUs in s.
func (s *CPUs) Count() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Next returns the lowest CPU in s that is not below from, and -1 if there is none:
// for c := s.Next(0); c >= 0; c = s.Next(c + 1).
func (s *CPUs) Next(from int) int {
	for w := from / 64; w < len(s.words); w++ {
		word := s.words[w]
		if w == from/64 {
			word &= ^uint64(0) << (from % 64)
		}
		if word != 0 {
			return w*64 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// Max is the highest CPU in s, -1 in the empty set.
func (s *CPUs) Max() int {
	for w := len(s.words) - 1; w >= 0; w-- {
		if s.words[w] != 0 {
			return w*64 + 63 - bits.LeadingZeros64(s.words[w])
		}
	}
	return -1
}

// Truncate leaves only the n lowest CPUs in s.
func (s *CPUs) Truncate(n int) {
	for w := range s.words {
		for word := s.words[w]; word != 0; word &= word - 1 {
			if n > 0 {
				n--
				continue
			}
			s.words[w] &^= word & -word
		}
	}
}

// Copy makes s the same set as t.
func (s *CPUs) Copy(t *CPUs) {
	s.Clear()
	s.words = append(s.words, t.words...)
}

// Equal reports whether s and t hold the same CPUs.
func (s *CPUs) Equal(t *CPUs) bool {
	if len(s.words) < len(t.words) {
		s, t = t, s
	}
	for w, word := range s.words {
		if w < len(t.words) && word != t.words[w] || w >= len(t.words) && word != 0 {
			return false
		}
	}
	return true
}

// AppendList appends s in the kernel's list format, "0-3,8", without a newline.
func (s *CPUs) AppendList(dst []byte) []byte {
	sep := false
	for c := s.Next(0); c >= 0; {
		end := c
		for s.Has(end + 1) {
			end++
		}
		if sep {
			dst = append(dst, ',')
		}
		sep = true
		dst = strconv.AppendInt(dst, int64(c), 10)
		if end > c {
			dst = append(dst, '-')
			dst = strconv.AppendInt(dst, int64(end), 10)
		}
		c = s.Next(end + 1)
	}
	return dst
}

func (s *CPUs) String() string { return string(s.AppendList(nil)) }
