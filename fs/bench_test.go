package fs_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"vprocfs/fs"
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

func benchmarkFile(b *testing.B, mode, path string) {
	b.ReportAllocs()
	b.ResetTimer()
	// The client's own time: its start is not the server's cost.
	ns := helperNanoseconds(b, mode, path, b.N)
	b.StopTimer()
	b.ReportMetric(float64(ns), "client-ns/op")
}
