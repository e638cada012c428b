package initpid

import (
	"slices"
	"testing"
	"time"
)

// cold returns the median time of n cold resolutions of c by r: open the
// namespace, find, verify, keep.
func cold(tb testing.TB, r *Resolver, c *container, n int) time.Duration {
	tb.Helper()
	times := make([]time.Duration, n)
	for i := range times {
		start := time.Now()
		init, err := r.Resolve(c.pid)
		times[i] = time.Since(start)
		if err != nil || init.By != r.Method() {
			tb.Fatalf("Resolve = %+v, %v; want a cold answer", init, err)
		}
		for _, e := range r.entries() {
			r.cache.Delete(init.NS, e)
		}
	}
	slices.Sort(times)
	return times[n/2]
}

// coldBoth measures both methods in turns, so that a noisy moment hits both.
func coldBoth(tb testing.TB) (ioctl, fork time.Duration) {
	tb.Helper()
	c := startContainer(tb, "init", newPIDNS)
	ri, rf := newResolver(tb, Config{Method: Ioctl}), newResolver(tb, Config{Method: Fork})
	var is, fs []time.Duration
	for range 5 {
		is = append(is, cold(tb, ri, c, 100))
		fs = append(fs, cold(tb, rf, c, 10))
	}
	slices.Sort(is)
	slices.Sort(fs)
	return is[len(is)/2], fs[len(fs)/2]
}

func TestColdIoctlIsThirtyTimesFasterThanFork(t *testing.T) {
	if !hasIoctl(t) {
		t.Skip("this kernel is older than 6.11 and has no ioctl to compare with")
	}
	ioctl, fork := coldBoth(t)
	t.Logf("cold: ioctl %v, fork %v, ratio %.0f", ioctl, fork, float64(fork)/float64(ioctl))
	if fork < 30*ioctl {
		t.Errorf("fork takes %v, ioctl %v: less than 30 times as long", fork, ioctl)
	}
}

func BenchmarkColdForkOverIoctl(b *testing.B) {
	if !hasIoctl(b) {
		b.Skip("this kernel is older than 6.11 and has no ioctl to compare with")
	}
	var ioctl, fork time.Duration
	for b.Loop() {
		ioctl, fork = coldBoth(b)
	}
	b.ReportMetric(float64(ioctl), "ioctl-ns")
	b.ReportMetric(float64(fork), "fork-ns")
	b.ReportMetric(float64(fork)/float64(ioctl), "fork/ioctl")
}

func BenchmarkCachedHit(b *testing.B) {
	r := newResolver(b, Config{})
	c := startContainer(b, "init", newPIDNS)
	if _, err := r.Resolve(c.pid); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Cached(c.pid); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStatOfNamespace is the floor of a hit: its one system call alone. The
// namespace is held, as it is behind a hit: then its nsfs inode need not be made.
func BenchmarkStatOfNamespace(b *testing.B) {
	r := newResolver(b, Config{})
	c := startContainer(b, "init", newPIDNS)
	if _, err := r.Resolve(c.pid); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.proc.namespace(c.pid); err != nil {
			b.Fatal(err)
		}
	}
}
