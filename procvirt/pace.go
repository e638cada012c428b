// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"sync/atomic"
	"time"
)

// defaultSlowAfter is how long gathering may hold up the other containers' readers. The
// memory.stat of a group takes 8 us, but 0.4 to 1.4 ms after 1,000 groups below it were
// active (6.18, v1). 64 threads of one container that ask for what takes just this long
// hold up the others for 32 ms.
const defaultSlowAfter = 500 * time.Microsecond

// pace remembers whether some work was slow. It is safe for concurrent use.
type pace struct{ long atomic.Uint32 }

// isSlow reports whether the work took long twice in a row: once may be the machine's
// other work, and to hand work to another thread costs all readers something.
func (p *pace) isSlow() bool { return p.long.Load() >= 2 }

// took notes how long the work took, and that more than limit is long.
func (p *pace) took(d, limit time.Duration) {
	before, long := p.long.Load(), uint32(0)
	if d > limit {
		long = min(before+1, 2)
	}
	if long != before {
		p.long.Store(long)
	}
}
