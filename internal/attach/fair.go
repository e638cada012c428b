// SPDX-License-Identifier: Apache-2.0

package attach

import "time"

// Bounds of the work of Heal. A hostile container can have thousands of mount
// namespaces, each of which hangs a helper for its whole patience.
const (
	// atOnce is how many jobs run at a time.
	atOnce = 16
	// perOwner is how many of them are of one owner.
	perOwner = 4
	// ownerTime is the budget of an owner: if its jobs have taken this long in
	// all, no other job of it starts. A job takes some milliseconds if nothing
	// hangs. lateTime is the budget once the work as a whole takes longer than
	// lateAfter.
	ownerTime = 20 * time.Second
	lateTime  = 1 * time.Second
	lateAfter = 10 * time.Second
)

// lane is the work of one owner.
type lane struct {
	waiting []*suspect
	running int
	spent   time.Duration
}

// fair runs work for each of all, several at a time, and returns when no work is
// running. An owner whose work hangs delays no other: the next job is always of the
// owner that has the fewest jobs running and, among these, has used the least time.
// If work returns true it is run again for the same suspect, after the owner's
// others. fair returns those whose owner has used up its time.
func fair(all []*suspect, work func(*suspect) (again bool)) (left []*suspect) {
	byOwner := make(map[uint64]*lane)
	var lanes []*lane
	for _, s := range all {
		l := byOwner[s.owner]
		if l == nil {
			l = &lane{}
			byOwner[s.owner], lanes = l, append(lanes, l)
		}
		l.waiting = append(l.waiting, s)
	}
	type end struct {
		*lane
		s     *suspect
		again bool
	}
	ended := make(chan end)
	begin := time.Now()
	for last, running, budget := begin, 0, ownerTime; ; {
		for l := next(lanes, budget); l != nil && running < atOnce; l = next(lanes, budget) {
			s := l.waiting[0]
			l.waiting = l.waiting[1:]
			l.running++
			running++
			go func() { ended <- end{l, s, work(s)} }()
		}
		if running == 0 {
			break
		}
		e := <-ended
		now := time.Now()
		for _, l := range lanes {
			l.spent += time.Duration(l.running) * now.Sub(last)
		}
		last = now
		if now.Sub(begin) >= lateAfter {
			budget = lateTime
		}
		running--
		e.running--
		if e.again {
			e.waiting = append(e.waiting, e.s)
		}
	}
	for _, l := range lanes {
		left = append(left, l.waiting...)
	}
	return left
}

// next returns the lane whose turn it is, or nil if no lane may start a job.
func next(lanes []*lane, budget time.Duration) (best *lane) {
	for _, l := range lanes {
		if len(l.waiting) == 0 || l.running == perOwner || l.spent >= budget {
			continue
		}
		if best == nil || l.running < best.running || l.running == best.running && l.spent < best.spent {
			best = l
		}
	}
	return best
}
