// SPDX-License-Identifier: Apache-2.0

package count

import (
	"testing"
	"time"
)

func TestATableCountsWhatIsInIt(t *testing.T) {
	table := NewTable(2, 3)
	for _, e := range [][2]int{{0, 0}, {1, 2}, {1, 2}, {2, 0}, {0, 3}, {-1, 0}, {0, -1}} {
		table.Add(e[0], e[1])
	}
	got := map[[2]int]uint64{}
	table.Each(func(row, column int, n uint64) { got[[2]int{row, column}] = n })
	if len(got) != 2 || got[[2]int{0, 0}] != 1 || got[[2]int{1, 2}] != 2 {
		t.Errorf("got %v", got)
	}
}

// TestBucketsAreBounded: each duration lies below the bound of its bucket, and not below
// that of the one before.
func TestBucketsAreBounded(t *testing.T) {
	for _, d := range []time.Duration{-1, 0, 1, 953, 954, time.Microsecond, 10 * time.Microsecond, time.Millisecond, time.Second, 15 * time.Second, time.Minute, time.Hour, 1 << 62} {
		var h Histogram
		h.Observe(d)
		got := h.Load()
		if got.Count() != 1 {
			t.Fatalf("%v: counted %d times", d, got.Count())
		}
		for i, n := range got.Buckets {
			if n == 0 {
				continue
			}
			if i < NumBuckets-1 && d.Seconds() >= UpperBound(i) {
				t.Errorf("%v is in the bucket below %v s", d, UpperBound(i))
			}
			// A nanosecond is lost to rounding.
			if i > 0 && (d+1).Seconds() < UpperBound(i-1) {
				t.Errorf("%v is in the bucket from %v s", d, UpperBound(i-1))
			}
		}
	}
	if UpperBound(20) != 1 {
		t.Errorf("bucket 20 ends at %v s", UpperBound(20))
	}
}

// TestARateIsThatOfTheLastSeconds: a container that stops is at 0 soon, and one that begins
// shows within a second.
func TestARateIsThatOfTheLastSeconds(t *testing.T) {
	var r Rate
	now := int64(time.Hour)
	if got := r.PerSecond(now); got != 0 {
		t.Errorf("before the first event: %v", got)
	}
	run := func(seconds float64, every time.Duration) {
		for end := now + int64(seconds*1e9); now < end; now += int64(every) {
			r.Add(now)
		}
	}
	near := func(when string, want float64) {
		t.Helper()
		if got := r.PerSecond(now); got < want*0.9-1 || got > want*1.1+1 {
			t.Errorf("%s: %v a second, want %v", when, got, want)
		}
	}
	run(1, time.Millisecond)
	near("after the first second", 1000)
	run(2.5, time.Millisecond)
	near("steady", 1000)
	run(3, 10*time.Millisecond)
	near("slower", 100)
	now += int64(30 * time.Second)
	if got := r.PerSecond(now); got > 7 {
		t.Errorf("30 s after the last event: %v", got)
	}
	run(2.5, time.Millisecond)
	near("again", 1000)
	if r.Total() < 6000 {
		t.Errorf("total %d", r.Total())
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	table, now := NewTable(4, 4), int64(0)
	var h Histogram
	var r Rate
	if n := testing.AllocsPerRun(100, func() {
		now += int64(100 * time.Millisecond)
		table.Add(1, 1)
		h.Observe(time.Millisecond)
		r.Add(now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCounting(b *testing.B) {
	b.ReportAllocs()
	table := NewTable(64, 40)
	var h Histogram
	var r Rate
	start := time.Now()
	for b.Loop() {
		now := time.Since(start)
		table.Add(15, 3)
		h.Observe(time.Since(start) - now)
		r.Add(int64(now))
	}
}
