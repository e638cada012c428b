// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// BenchmarkList measures what the answers of the control socket cost the worker with 300
// containers: CPU time, which other work on the machine does not change much.
func BenchmarkList(b *testing.B) {
	const n = 300
	src := testSource(b)
	for range n {
		cmd := exec.Command("sleep", "1000")
		startReader(b, cmd)
		for _, node := range []fs.NodeID{nodeUptime, nodeMeminfo, nodeLoadavg} {
			if _, err := src.Append(nil, node, fs.NewTurn(fs.Caller{PID: cmd.Process.Pid})); err != nil {
				b.Fatal(err)
			}
		}
	}
	r := src.registry
	for _, what := range []struct {
		name string
		wait time.Duration // before each
		ask  func() any
	}{
		{"all-numbers-anew", 0, func() any { return r.List() }},
		{"some-numbers-anew", 1100 * time.Millisecond, func() any { return r.List() }},
		{"numbers-of-the-last-second", 0, func() any { return r.List() }},
		{"counters", 0, func() any { return r.Counters() }},
		{"status", 0, func() any { return []any{r.Snapshot(), r.Top(topOwners)} }},
		{"explain", 0, func() any {
			e, err := r.Explain(r.Counters()[0].Init)
			if err != nil {
				b.Fatal(err)
			}
			return e
		}},
	} {
		b.Run(what.name, func(b *testing.B) {
			var took, encoding time.Duration
			bytes, times := 0, 0
			for b.Loop() {
				time.Sleep(what.wait)
				begun := cpuTime(b)
				answer := what.ask()
				made := cpuTime(b)
				text, err := json.Marshal(answer)
				if err != nil {
					b.Fatal(err)
				}
				took, encoding, bytes, times = took+made-begun, encoding+cpuTime(b)-made, len(text), times+1
			}
			b.ReportMetric(0, "ns/op") // with the waits
			b.ReportMetric(took.Seconds()*1e3/float64(times), "CPU-ms")
			b.ReportMetric(encoding.Seconds()*1e3/float64(times), "encoding-CPU-ms")
			b.ReportMetric(float64(bytes), "bytes")
		})
	}
}

// cpuTime returns the CPU time of this process.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
