// SPDX-License-Identifier: Apache-2.0

package host

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock reads CLOCK_BOOTTIME, the clock of /proc/uptime: the time since the host
// booted, suspension included. No step of the calendar clock moves it.
//
// Go reads only CLOCK_REALTIME and CLOCK_MONOTONIC without a system call (0.2 us
// against 3.6 us in a guest). The monotonic clock stands still while the host is
// suspended. So Now adds a difference that it measures anew whenever the calendar
// clock moved against the monotonic one: at every resume, and when it is set.
//
// It is safe for concurrent use.
type Clock struct {
	read func() (mono, wall int64) // since any fixed moment, and since 1970
	boot func() int64
	last atomic.Pointer[offsets]
}

// offsets are how far clocks are ahead of the monotonic one, in nanoseconds.
type offsets struct{ boot, wall int64 }

// slack is how far the calendar clock may move against the monotonic one before
// the difference is measured anew. The two are read one after the other, so a
// thread that is preempted in between sees them apart.
const slack = 10 * time.Millisecond

// NewClock returns a clock that is ready.
func NewClock() *Clock {
	start := time.Now()
	return &Clock{
		read: func() (mono, wall int64) {
			t := time.Now()
			return int64(t.Sub(start)), t.UnixNano()
		},
		boot: boottime,
	}
}

// Now is the time since boot in nanoseconds.
func (c *Clock) Now() int64 {
	mono, wall := c.read()
	wall -= mono
	s := c.last.Load()
	if s == nil || apart(s.wall, wall) {
		fresh := &offsets{boot: c.boot() - mono, wall: wall}
		if s != nil && !apart(s.boot, fresh.boot) {
			fresh.boot = s.boot // not suspended: only what measuring took
		}
		c.last.Store(fresh)
		s = fresh
	}
	return mono + s.boot
}

func apart(a, b int64) bool { return a-b > int64(slack) || b-a > int64(slack) }

func boottime() int64 {
	var ts unix.Timespec
	// The clock is there since Linux 2.6.39.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}

// Monotonic returns a clock of CLOCK_MONOTONIC in nanoseconds: the time since the
// host booted, less suspension. It is the same in every process.
func Monotonic() func() int64 {
	var ts unix.Timespec
	// The clock is there since Linux 2.6. Go's own runs with it.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	start, base := time.Now(), ts.Nano()
	return func() int64 { return base + int64(time.Since(start)) }
}
