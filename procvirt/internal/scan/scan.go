// SPDX-License-Identifier: Apache-2.0

// Package scan takes apart the text of kernel files without allocating.
//
// Every function works on the bytes it is given and keeps nothing. Numbers
// that do not fit saturate at the largest uint64: a limit too large to hold is
// no limit, and a counter must never wrap around to a small one.
package scan

import (
	"bytes"
	"iter"
	"math"
)

// Uint reads the decimal number that b begins with. It returns the number and
// how many bytes it took: 0 if b does not begin with a digit.
func Uint(b []byte) (v uint64, n int) {
	for n < len(b) {
		d := uint64(b[n]) - '0'
		if d > 9 {
			break
		}
		if v > (math.MaxUint64-d)/10 {
			v = math.MaxUint64
			for n < len(b) && b[n]-'0' <= 9 {
				n++
			}
			return v, n
		}
		v = v*10 + d
		n++
	}
	return v, n
}

// Line cuts b after its first newline. The line comes without it; rest is
// empty at the end.
func Line(b []byte) (line, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// Lines returns the lines of text, without their newlines.
func Lines(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(text) > 0 {
			var line []byte
			if line, text = Line(text); !yield(line) {
				return
			}
		}
	}
}

// KeyValues returns the lines of a flat keyed file, leaving out any other.
func KeyValues(text []byte) iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		for line := range Lines(text) {
			if key, value, ok := KeyValue(line); ok && !yield(key, value) {
				return
			}
		}
	}
}

// Field cuts the first run of bytes that are neither blank nor tab from b,
// skipping blanks before it. The field is empty if there is none.
func Field(b []byte) (field, rest []byte) {
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	j := i
	for j < len(b) && b[j] != ' ' && b[j] != '\t' {
		j++
	}
	return b[i:j], b[j:]
}

// KeyValue takes one line of a flat keyed file, `key value` (the format of
// memory.stat and cpu.stat, cgroup-v2.rst "Flat keyed"). It returns false for
// any other line.
func KeyValue(line []byte) (key []byte, value uint64, ok bool) {
	key, rest := Field(line)
	if len(key) == 0 {
		return nil, 0, false
	}
	f, _ := Field(rest)
	value, n := Uint(f)
	return key, value, n > 0 && n == len(f)
}
