// SPDX-License-Identifier: Apache-2.0

package loadavg

import (
	"math/bits"
	"time"
)

// Period is the time between two samples (LOAD_FREQ). The kernel's is a tick
// longer than 5 s, lest it always or never meets what runs each second; this is
// the same with 250 ticks a second.
const Period = 5004 * time.Millisecond

const period = int64(Period)

// Counts are what one look at a group's threads found.
type Counts struct {
	// Running are the threads that run or want to, Blocked those in
	// uninterruptible sleep, Total all.
	Running, Blocked, Total int
	// Newest is the id of the thread that began last of those seen so far, in
	// the daemon's pid namespace; LastPID is the same in the container's.
	Newest, LastPID int
}

// State is all that is known of a container's load. Who has it can go on with
// the averages, in another process too, as long as the machine runs.
type State struct {
	Averages Averages
	// At is the time that the averages are of, on CLOCK_MONOTONIC in nanoseconds.
	At int64
	// Used is the CPU time that the group had used by then, in nanoseconds.
	Used uint64
	Counts
}

// mean is how many threads have run on average since s, in units of 1/One, if the
// group has used that much CPU time now. It is what is known of a time without
// samples; threads that waited are not in it.
func (s *State) mean(now int64, used uint64) uint64 {
	if now <= s.At || int64(used-s.Used) <= 0 { // used may wrap around
		return 0
	}
	dt := uint64(now - s.At)
	hi, lo := bits.Mul64(used-s.Used, One)
	if hi >= maxMean || hi >= dt {
		return maxMean
	}
	mean, _ := bits.Div64(hi, lo, dt)
	return min(mean, maxMean)
}

// maxMean is more CPUs than a machine has.
const maxMean = One << 16

// skip goes on over n periods without a sample.
func (s *State) skip(n, now int64, used uint64) { s.Averages.step(s.mean(now, used), n) }

// active is the load as the kernel counts it, in units of 1/One.
func (c *Counts) active() uint64 { return uint64(c.Running+c.Blocked) * One }
