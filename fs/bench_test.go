// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"vprocfs/fs"
	"vprocfs/internal/count"
)

const uptime = "1234567.89 23456.78\n"

// TestServerAllocatesNothing counts the whole process that serves a client: what
// the dispatcher does, and what Go does around it.
func TestServerAllocatesNothing(t *testing.T) {
	m := serve(t, constant(uptime), fs.ServerOptions{})
	const n = 3000
	helperNanoseconds(t, "cycle", m.path("uptime"), 10)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	helperNanoseconds(t, "cycle", m.path("uptime"), n)
	helperNanoseconds(t, "pread", m.path("uptime"), n)
	runtime.ReadMemStats(&after)
	// To start two programs takes some hundred.
	if mallocs := after.Mallocs - before.Mallocs; mallocs > n/3 {
		t.Errorf("%d allocations for %d times open, read, read, close and pread", mallocs, n)
	}
}

// BenchmarkFloor is what a file costs that the loop serves and nobody computes:
// the measure for every real Source. "native" is /proc/uptime in the same run.
// The client is another process; allocs/op are the server's.
func BenchmarkFloor(b *testing.B) {
	for _, mode := range []string{"cycle", "pread"} {
		b.Run(mode+"/native", func(b *testing.B) { benchmarkFile(b, mode, "/proc/uptime") })
		for _, content := range []string{uptime, strings.Repeat("x", 1400)} {
			b.Run(fmt.Sprintf("%s/fuse-%dB", mode, len(content)), func(b *testing.B) {
				m := serve(b, constant(content), fs.ServerOptions{})
				benchmarkFile(b, mode, m.path("uptime"))
			})
		}
	}
}

// BenchmarkCounting compares what counting costs with the cheapest read: of a content that
// nobody computes, on a handle that is open. It counts as for a real one: the request, its
// duration, and the rates of the container and of the outermost one.
func BenchmarkCounting(b *testing.B) {
	m := serve(b, constant(uptime), fs.ServerOptions{})
	read := math.Inf(1)
	for range 20 {
		read = min(read, float64(helperNanoseconds(b, "pread", m.path("uptime"), 2000)))
	}
	countRead := fs.CountRead(m.srv)
	var container, outermost count.Rate
	now := int64(0)
	// The shortest of many rounds, as with the reads: the machine may do other work.
	const each = 1000
	counting := math.Inf(1)
	b.ReportAllocs()
	for b.Loop() {
		begun := time.Now()
		for range each {
			countRead()
			now += 1000
			container.Add(now)
			outermost.Add(now)
		}
		counting = min(counting, float64(time.Since(begun))/each)
	}
	b.ReportMetric(0, "ns/op") // of a round
	b.ReportMetric(counting, "ns/count")
	b.ReportMetric(read, "ns/read")
	b.ReportMetric(100*counting/read, "%-of-a-read")
}

// TestCountingAllocatesNothing, whatever is counted.
func TestCountingAllocatesNothing(t *testing.T) {
	m := serve(t, constant(uptime), fs.ServerOptions{})
	if n := testing.AllocsPerRun(1000, fs.CountRead(m.srv)); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func benchmarkFile(b *testing.B, mode, path string) {
	b.ReportAllocs()
	b.ResetTimer()
	// The client's own time: its start is not the server's cost.
	ns := helperNanoseconds(b, mode, path, b.N)
	b.StopTimer()
	b.ReportMetric(float64(ns), "client-ns/op")
}
