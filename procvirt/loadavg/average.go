// SPDX-License-Identifier: Apache-2.0

// Package loadavg keeps the load averages of containers: the kernel's own
// arithmetic, over the threads of a control group instead of the machine.
//
// It does not know where the numbers come from. A Group says how much CPU time
// was used and which threads there are; a Sampler asks it now and then.
package loadavg

// Shift is how many bits of an average are behind the point (FSHIFT,
// include/linux/sched/loadavg.h).
const Shift = 11

// One is 1.0 as an average.
const One = 1 << Shift

// Averages are the load averages of 1, 5 and 15 minutes, in units of 1/One.
type Averages [3]uint64

// decay is what is left of each average after a period: e^(-5s/1min) and so on
// (EXP_1, EXP_5, EXP_15).
var decay = [3]uint64{1884, 2014, 2037}

// step goes on by n periods in which active threads, in units of 1/One, were
// running or blocked (calc_load_n, kernel/sched/loadavg.c, since 3.9 the same).
func (a *Averages) step(active uint64, n int64) {
	if n <= 0 {
		return
	}
	for i := range a {
		a[i] = average(a[i], power(decay[i], n), active)
	}
}

// average is calc_load: it rounds up while the load rises, so that a steady one
// is reached.
func average(load, decay, active uint64) uint64 {
	next := load*decay + active*(One-decay)
	if active >= load {
		next += One - 1
	}
	return next / One
}

// power is x to the n-th, of numbers in units of 1/One (fixed_power_int).
func power(x uint64, n int64) uint64 {
	result := uint64(One)
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			result = (result*x + One/2) >> Shift
		}
		x = (x*x + One/2) >> Shift
	}
	return result
}
