// SPDX-License-Identifier: Apache-2.0

package loadavg

import (
	"math"
	"testing"
)

// TestAveragesAreTheKernels compares with lines of the kernel's own: the averages
// after k periods of n threads, made with CALC_LOAD of linux/sched/loadavg.h in C.
func TestAveragesAreTheKernels(t *testing.T) {
	for _, c := range []struct {
		active, periods int
		want            Averages
	}{
		{1, 1, Averages{164, 34, 11}},
		{1, 2, Averages{315, 68, 22}},
		{4, 1, Averages{656, 136, 44}},
		{4, 12, Averages{5188, 1495, 518}},
		{4, 180, Averages{8192, 7817, 5141}},
		{250, 12, Averages{323950, 93189, 32047}},
	} {
		var a Averages
		for range c.periods {
			a.step(uint64(c.active)*One, 1)
		}
		if a != c.want {
			t.Errorf("%d threads for %d periods: %v, want %v", c.active, c.periods, a, c.want)
		}
	}
}

// TestAveragesApproachTheLoad compares with the exponential itself.
func TestAveragesApproachTheLoad(t *testing.T) {
	for _, minutes := range []float64{1, 5, 15} {
		i := map[float64]int{1: 0, 5: 1, 15: 2}[minutes]
		var a Averages
		for k := range 1000 {
			a.step(3*One, 1)
			want := 3 * (1 - math.Exp(-5*float64(k+1)/60/minutes))
			if got := float64(a[i]) / One; math.Abs(got-want) > 0.06 {
				t.Fatalf("%v min, period %d: %.3f, want about %.3f", minutes, k+1, got, want)
			}
		}
		if a[i] != 3*One {
			t.Errorf("%v min: a steady load of 3 ends at %.3f", minutes, float64(a[i])/One)
		}
		a.step(0, 100000)
		if a != (Averages{}) {
			t.Errorf("after days of nothing: %v", a)
		}
	}
}

// TestManyPeriodsAtOnceAreAsOneByOne guards the catching up.
func TestManyPeriodsAtOnceAreAsOneByOne(t *testing.T) {
	for _, n := range []int64{-5, 0, 1, 2, 7, 12, 100, 720, 1 << 40} {
		one, all := Averages{One, 2 * One, 50 * One}, Averages{One, 2 * One, 50 * One}
		for range min(n, 10000) {
			one.step(5*One, 1)
		}
		all.step(5*One, n)
		for i := range one {
			if d := int64(one[i]) - int64(all[i]); d > One/10 || d < -One/10 {
				t.Errorf("%d periods, average %d: %d at once, %d one by one", n, i, all[i], one[i])
			}
		}
	}
}
