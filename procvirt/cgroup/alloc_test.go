// SPDX-License-Identifier: Apache-2.0

//go:build !race

package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/fixture"
)

// TestReadsDoNotAllocate guards the hot path.
func TestReadsDoNotAllocate(t *testing.T) {
	for _, h := range fixture.All(t, "../testdata/host") {
		m, err := Discover(h.Root)
		if err != nil {
			t.Fatal(err)
		}
		groups := h.Read(t, filepath.Join("proc", strconv.Itoa(h.Init), "cgroup"))
		var places [NumControllers]Place
		for _, c := range []Controller{CPU, CPUAcct, CPUSet, Memory} {
			if places[c], err = m.Locate(c, Auto, groups, groups); err != nil {
				t.Fatalf("%s: %v", h.Name, err)
			}
		}
		var o held.Opener
		mem, err := OpenMemory(&o, places[Memory])
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		defer mem.Close()
		cpu, err := OpenCPU(&o, CPUPlaces{places[CPU], places[CPUAcct], places[CPUSet]})
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		defer cpu.Close()
		var (
			buf  []byte
			u    MemoryUsage
			set  CPUs
			used CPUTime
		)
		n := testing.AllocsPerRun(100, func() {
			var errs [4]error
			buf, errs[0] = mem.Read(&u, NoLimit, NoLimit, buf)
			_, buf, errs[1] = cpu.Quota(buf)
			buf, errs[2] = cpu.Effective(&set, buf)
			buf, errs[3] = cpu.Time(&used, 0, buf)
			for _, err := range errs {
				if err != nil {
					t.Fatal(err)
				}
			}
			membership, err := ReadMembership("/proc", os.Getpid(), buf)
			if err != nil || len(membership) == 0 {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", h.Name, n)
		}
	}
}
