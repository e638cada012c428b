// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"sync/atomic"
	"time"
)

// pulsePeriod bounds how long the Go runtime may take to stop the world.
const pulsePeriod = 20 * time.Millisecond

// pulse is a timer that is set while requests come, and for one to two periods
// after the last. It does nothing but be due.
//
// In Go 1.26.8 and 1.27.3 a goroutine that enters a system call can miss that the world is
// to be stopped: reentersyscall (runtime/proc.go) looks at sched.gcwaiting before it shows
// itself as _Gsyscall, and stopTheWorldWithSema in between sees it neither there nor
// stopped. If the system call blocks, as the reader's does, only sysmon takes the processor
// from it, and sysmon sleeps while the world is being stopped, for 60 s or until the next
// timer is due. A loop of reads of a pipe and stops of the world meets this once in 10,000
// stops: 60.0 s each time, and 21 ms at most with a timer every 20 ms.
//
// It is safe for concurrent use.
type pulse struct {
	set   atomic.Bool // the timer is set, or its function runs
	seen  atomic.Bool // a request has come since it was set
	timer *time.Timer
}

func newPulse() *pulse {
	p := &pulse{}
	p.timer = time.AfterFunc(time.Hour, p.due)
	p.timer.Stop()
	return p
}

// beat is called for each request.
func (p *pulse) beat() {
	if !p.seen.Load() {
		p.seen.Store(true)
	}
	p.start()
}

func (p *pulse) start() {
	if !p.set.Load() && p.set.CompareAndSwap(false, true) {
		p.timer.Reset(pulsePeriod)
	}
}

func (p *pulse) due() {
	if p.seen.Swap(false) {
		p.timer.Reset(pulsePeriod)
		return
	}
	p.set.Store(false)
	if p.seen.Load() { // by one that has still found it set
		p.start()
	}
}
