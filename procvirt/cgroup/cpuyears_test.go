// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"

	"vprocfs/procvirt/held"
)

// TestCPUTimeGrowsForTenYears has all CPUs of a host busy, up to MaxCPUs of them.
// The kernel counts their sum in 64 bits of nanoseconds, which wrap around.
func TestCPUTimeGrowsForTenYears(t *testing.T) {
	const day = 86400 * 1_000_000 // in microseconds
	for _, cpus := range []int{128, MaxCPUs} {
		for _, v2 := range []bool{false, true} {
			root := t.TempDir()
			p := Place{V2: v2, Dirs: []string{root}, Top: root}
			set := func(us uint64) { // of each CPU
				sum := new(big.Int).SetUint64(us)
				sum.Mul(sum, big.NewInt(int64(cpus)*1000)).And(sum, new(big.Int).SetUint64(math.MaxUint64))
				ns := sum.Uint64()
				if v2 {
					// The two stand still when usage_usec has wrapped around.
					frozen := min(us*uint64(cpus), math.MaxUint64/1000)
					write(t, root, "cpu.stat", fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec %d\n", ns/1000, frozen-frozen/4, frozen/4))
					return
				}
				write(t, root, "cpuacct.usage", fmt.Sprintf("%d\n", ns))
				if us%(200*day) != 0 {
					return // the others are long, and wanted now and then
				}
				var all []byte
				for c := range cpus {
					all = fmt.Appendf(all, "%d %d %d\n", c, us*750, us*250)
				}
				write(t, root, "cpuacct.usage_all", "cpu user system\n"+string(all),
					"cpuacct.usage_percpu", strings.Repeat(fmt.Sprintf("%d ", us*1000), cpus)+"\n")
			}
			set(0)
			var o held.Opener
			c, err := OpenCPU(&o, CPUPlaces{CPUAcct: p})
			if err != nil {
				t.Fatal(err)
			}
			var u CPUTime
			near := uint64(0)
			for d := uint64(0); d <= 3650; d += 10 { // 225 years of MaxCPUs CPUs
				set(d * day)
				got, _, err := c.Usage(near, nil)
				if err != nil {
					t.Fatal(err)
				}
				want := d * day * uint64(cpus)
				if got+1 < want || got > want {
					t.Fatalf("v2 %t, %d CPUs, day %d: used %d us, want %d", v2, cpus, d, got, want)
				}
				if v2 || d%200 == 0 {
					if _, err := c.Time(&u, near, nil); err != nil {
						t.Fatal(err)
					}
					if u.Total()+1 < want || u.Total() > want || u.System+1000 < want/4 || u.System > want/4+1000 {
						t.Fatalf("v2 %t, %d CPUs, day %d: user %d and system %d us, want %d in all", v2, cpus, d, u.User, u.System, want)
					}
				}
				near = got
			}
			c.Close()
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	f.Add(uint64(0), int64(1))
	f.Add(uint64(math.MaxUint64/1000), int64(5000))
	f.Add(uint64(1<<62), int64(-1<<50))
	f.Fuzz(func(t *testing.T, near uint64, step int64) {
		near %= maxTime
		step %= 1 << 52 // less than half a round, in microseconds
		if step < 0 && uint64(-step) > near {
			step = 0
		}
		want := near + uint64(step)
		if got := unwrap(want*1000, near); got != want {
			t.Fatalf("%d us after %d is %d, want %d", step, near, got, want)
		}
	})
}
