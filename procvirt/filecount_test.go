// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"testing"
	"time"

	"vprocfs/procvirt/internal/fixture"
)

// TestReadsAreCountedByFile, those of each container apart, with the host's files that it was
// given; and looking at them counts as no read.
func TestReadsAreCountedByFile(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		r := fixtureRegistry(t, h, nil)
		s := subject(t, h, h.Roles["child"])
		if _, err := r.FilesRead(s.NS); err == nil {
			t.Errorf("%s: no error before the first read", h.Name)
		}
		begin := time.Now()
		for range 3 {
			render(t, r, "meminfo", s)
		}
		render(t, r, "uptime", s)
		setPolicy(t, policyDirs(t, r, s)[0], "view=off")
		render(t, r, "stat", s)
		took := time.Since(begin)
		other := subject(t, h, h.Roles["child"])
		other.NS, other.Owner = 4026540001, 4026540001
		render(t, r, "uptime", other)

		r.List()
		for ns, want := range map[uint64]string{s.NS: "map[meminfo:3 stat:1 uptime:1]", other.NS: "map[uptime:1]"} {
			groups, err := r.FilesRead(ns)
			if err != nil || len(groups) != 1 {
				t.Fatalf("%s: %+v, %v", h.Name, groups, err)
			}
			got, seconds := map[string]uint64{}, 0.0
			for _, f := range groups[0].Files {
				got[f.File] = f.N
				seconds += f.Seconds
				if f.Slowest <= 0 || f.Slowest > f.Seconds || f.N == 1 && f.Slowest != f.Seconds {
					t.Errorf("%s: %+v", h.Name, f)
				}
			}
			if fmt.Sprint(got) != want || ns == s.NS && seconds > took.Seconds() {
				t.Errorf("%s: %v in %v s of %s, want %s", h.Name, got, seconds, took, want)
			}
			for _, info := range r.List() {
				if info.Namespace == ns && info.Group != groups[0].Group {
					t.Errorf("%s: group %q, and %q in the list", h.Name, groups[0].Group, info.Group)
				}
			}
		}
		for _, sp := range r.spaces {
			if sp.isHeld() {
				t.Errorf("%s: a container is held", h.Name)
			}
		}
	}
}

// TestTheSlowestOfManyIsKept, whichever comes last.
func TestTheSlowestOfManyIsKept(t *testing.T) {
	var f fileCount
	done := make(chan struct{})
	for i := range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for n := range 1000 {
				f.add(time.Duration(n*4 + i))
			}
		}()
	}
	for range 4 {
		<-done
	}
	if f.reads.Load() != 4000 || f.slowest.Load() != 3999 || f.sum.Load() != 3999*4000/2 {
		t.Errorf("%d reads, %d ns, slowest %d", f.reads.Load(), f.sum.Load(), f.slowest.Load())
	}
}

func BenchmarkCountFile(b *testing.B) {
	var f fileCount
	b.ReportAllocs()
	for b.Loop() {
		f.add(12345)
	}
}
