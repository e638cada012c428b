// SPDX-License-Identifier: Apache-2.0

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
		if err != nil || init.By != r.by {
			tb.Fatalf("Resolve = %+v, %v; want a cold answer", init, err)
		}
		for _, e := range r.entries() {
			r.cache.Delete(init.NS, e)
		}
	}
	slices.Sort(times)
	return times[n/2]
}

// coldBoth measures another method and fork in turns, so that a noisy moment hits
// both.
func coldBoth(tb testing.TB, m Method) (other, fork time.Duration) {
	tb.Helper()
	c := startContainer(tb, "init", newPIDNS)
	ro, rf := newResolver(tb, Config{Method: m}), newResolver(tb, Config{Method: Fork})
	var others, forks []time.Duration
	for range 5 {
		others = append(others, cold(tb, ro, c, 100))
		forks = append(forks, cold(tb, rf, c, 10))
	}
	slices.Sort(others)
	slices.Sort(forks)
	return others[len(others)/2], forks[len(forks)/2]
}

func TestColdIoctlIsThirtyTimesFasterThanFork(t *testing.T) {
	if !hasIoctl(t) {
		t.Skip("this kernel is older than 6.11 and has no ioctl to compare with")
	}
	ioctl, fork := coldBoth(t, Ioctl)
	t.Logf("cold: ioctl %v, fork %v, ratio %.0f", ioctl, fork, float64(fork)/float64(ioctl))
	if fork < 30*ioctl {
		t.Errorf("fork takes %v, ioctl %v: less than 30 times as long", fork, ioctl)
	}
}

func TestParentsAreTenTimesFasterThanFork(t *testing.T) {
	parents, fork := coldBoth(t, Parents)
	t.Logf("cold: parents %v, fork %v, ratio %.0f", parents, fork, float64(fork)/float64(parents))
	if fork < 10*parents {
		t.Errorf("fork takes %v, parents %v: less than 10 times as long", fork, parents)
	}
}

func BenchmarkColdForkOverIoctl(b *testing.B) {
	if !hasIoctl(b) {
		b.Skip("this kernel is older than 6.11 and has no ioctl to compare with")
	}
	var ioctl, fork time.Duration
	for b.Loop() {
		ioctl, fork = coldBoth(b, Ioctl)
	}
	b.ReportMetric(float64(ioctl), "ioctl-ns")
	b.ReportMetric(float64(fork), "fork-ns")
	b.ReportMetric(float64(fork)/float64(ioctl), "fork/ioctl")
}

func BenchmarkLookup(b *testing.B) {
	r := newResolver(b, Config{})
	c := startContainer(b, "init", newPIDNS)
	if _, err := r.Resolve(c.pid); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := r.Lookup(c.pid); !ok || err != nil {
			b.Fatal(ok, err)
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
