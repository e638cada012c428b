// SPDX-License-Identifier: Apache-2.0

// Package count has counters that cost a few nanoseconds and no allocation. All are safe
// for concurrent use, and their zero value is ready.
package count

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A Table counts events of two kinds each, such as a request's opcode and its file.
type Table struct {
	columns int
	cells   []atomic.Uint64
}

// NewTable returns a table with so many rows and columns.
func NewTable(rows, columns int) *Table {
	return &Table{columns, make([]atomic.Uint64, rows*columns)}
}

// Add counts one event. An event outside the table is not counted.
func (t *Table) Add(row, column int) {
	if i := row*t.columns + column; row >= 0 && column >= 0 && column < t.columns && i < len(t.cells) {
		t.cells[i].Add(1)
	}
}

// Each calls f for each kind of event that was counted.
func (t *Table) Each(f func(row, column int, n uint64)) {
	for i := range t.cells {
		if n := t.cells[i].Load(); n > 0 {
			f(i/t.columns, i%t.columns, n)
		}
	}
}

// Bucket I of a Histogram has what took less than 2^I units, and not less than 2^(I-1); the
// last one also has what took longer. A unit is 2^-20 s, some 0.95 microseconds. So the
// bounds are powers of two of a second, as in Prometheus' native histograms of schema 0.
const (
	NumBuckets = 26 // the last but one ends at 16 s
	UnitsShift = 20 // UpperBound(UnitsShift) is 1 s
)

// Histogram counts durations by their length.
type Histogram struct {
	buckets [NumBuckets]atomic.Uint64
	sum     atomic.Uint64 // in nanoseconds
}

// Observe counts a duration.
func (h *Histogram) Observe(d time.Duration) {
	ns := uint64(max(d, 0))
	h.buckets[bucketOf(ns)].Add(1)
	h.sum.Add(ns)
}

func bucketOf(ns uint64) int {
	if ns > uint64(time.Hour) { // the product below would overflow
		return NumBuckets - 1
	}
	return min(bits.Len64(ns<<UnitsShift/uint64(time.Second)), NumBuckets-1)
}

// Durations is what a Histogram has counted.
type Durations struct {
	Buckets []uint64 `json:"buckets"` // see NumBuckets
	Seconds float64  `json:"seconds"` // all together
}

// Load returns what was counted so far.
func (h *Histogram) Load() Durations {
	d := Durations{Buckets: make([]uint64, NumBuckets), Seconds: float64(h.sum.Load()) / 1e9}
	for i := range d.Buckets {
		d.Buckets[i] = h.buckets[i].Load()
	}
	return d
}

// Count returns how many durations there are.
func (d *Durations) Count() (n uint64) {
	for _, b := range d.Buckets {
		n += b
	}
	return n
}

// UpperBound returns the end of bucket i in seconds.
func UpperBound(i int) float64 { return float64(uint64(1)<<i) / (1 << UnitsShift) }

// window is the least time over which Rate looks back, in nanoseconds.
const window = int64(time.Second)

// Rate counts events, and says how many came in the last one to two seconds. It needs no
// timer: an event that finds the last mark a second old makes another one.
type Rate struct {
	total      atomic.Uint64
	last, prev mark
}

// mark is how many events there were at a time.
type mark struct {
	at    atomic.Int64
	total atomic.Uint64
}

// Add counts an event at the time now, in nanoseconds.
func (r *Rate) Add(now int64) {
	n := r.total.Add(1)
	at := r.last.at.Load()
	if now-at < window || !r.last.at.CompareAndSwap(at, now) {
		return
	}
	r.prev.at.Store(at)
	r.prev.total.Store(r.last.total.Swap(n - 1))
}

// Total returns how many events there were.
func (r *Rate) Total() uint64 { return r.total.Load() }

// PerSecond returns the rate at the time now: since the last mark if that is a second old,
// else since the one before it.
func (r *Rate) PerSecond(now int64) float64 {
	m := &r.last
	if now-m.at.Load() < window && r.prev.at.Load() != 0 {
		m = &r.prev
	}
	at, total := m.at.Load(), m.total.Load()
	n := r.total.Load()
	if at == 0 || n < total {
		return 0
	}
	return float64(n-total) / (float64(max(now-at, window)) / float64(time.Second))
}
