// SPDX-License-Identifier: Apache-2.0

package supervise

import "time"

// The pace of a holder.
const (
	// goodAfter is how long a worker must serve to count as a good one. Then the next
	// one is started at once should it end, and its first answer ends an outage.
	goodAfter = 100 * time.Millisecond
	// minBackoff and maxBackoff bound the wait before a worker is started if the last
	// one was not good.
	minBackoff = 10 * time.Millisecond
	maxBackoff = 2 * time.Second
	// minHolderBackoff and maxHolderBackoff are those of a worker that starts a holder;
	// nobody waits for that. holderGoodAfter is how long a good holder lives.
	minHolderBackoff = 50 * time.Millisecond
	maxHolderBackoff = 5 * time.Second
	holderGoodAfter  = 10 * time.Second
	// minRenewal and maxRenewal bound the wait before an aborted connection is replaced,
	// if the last one did not live for renewalGoodAfter.
	minRenewal       = 100 * time.Millisecond
	maxRenewal       = 10 * time.Second
	renewalGoodAfter = time.Minute
	// startTimeout is how long a worker may take to begin, on a busy machine.
	startTimeout = 20 * time.Second
	// maxPingEvery and maxPingTimeout bound how often a worker is asked whether it works,
	// and how long the answer may take. Each ping wakes some threads of an idle daemon.
	maxPingEvery   = time.Minute
	maxPingTimeout = 10 * time.Second
	// probeTimeout is how long the first worker may take to answer, on a busy machine.
	// upgradeTimeout is that of a worker that has replaced one which served: callers
	// wait meanwhile.
	probeTimeout   = 20 * time.Second
	upgradeTimeout = 10 * time.Second
	// stopTimeout is how long a stop may take.
	stopTimeout = 5 * time.Second
)

// pace is what differs from holder to holder.
type pace struct {
	maxOutage   time.Duration // how long callers may wait for a worker that works
	pingEvery   time.Duration
	pingTimeout time.Duration
}

// newPace returns the pace of a holder that may be without a worker for maxOutage. watchdog
// is how often systemd wants to hear from the holder. With a watchdog a worker that hangs is found out
// after two thirds of maxOutage at most. Without (0) an idle daemon sleeps for a minute at a time.
func newPace(maxOutage, watchdog time.Duration) pace {
	p := pace{maxOutage, maxPingEvery, min(maxPingTimeout, maxOutage/3)}
	if watchdog > 0 {
		p.pingEvery = min(maxPingEvery, watchdog/3, maxOutage/3)
	}
	return p
}

// unnoticed is how long a worker may have hung before that was found out, as far as it
// counts as outage: a third of maxOutage is left to replace it.
func (p pace) unnoticed() time.Duration { return min(p.pingEvery+p.pingTimeout, p.maxOutage*2/3) }

// backoff is the wait before the next attempt. The zero value has failed never yet.
type backoff struct{ wait time.Duration }

// next returns how long to wait now: nothing the first time, then from least on twice
// as long each time, up to most.
func (b *backoff) next(least, most time.Duration) time.Duration {
	wait := b.wait
	b.wait = min(max(2*wait, least), most)
	return wait
}
