// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"sync"
	"time"
)

const (
	// allowanceBurst is for how long an owner may save reads up.
	allowanceBurst = time.Second
	// maxDelay bounds how long a read waits. An owner with many threads that read gets
	// more than its rate then: 51 reads a second with 512.
	maxDelay = 10 * time.Second
)

// allowance says how much an owner may read. It is safe for concurrent use, and its zero
// value is full.
type allowance struct {
	mu   sync.Mutex
	full int64 // when all is saved up again, on the clock of Config.Now
}

// take takes one read of perSecond, and returns how long it must wait.
func (a *allowance) take(now int64, perSecond int) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	each := int64(time.Second) / int64(perSecond)
	a.full = min(max(a.full, now)+each, now+int64(allowanceBurst+maxDelay))
	return max(time.Duration(a.full-now)-allowanceBurst, 0)
}

// giveBack gives back what a read has taken that is not made.
func (a *allowance) giveBack(perSecond int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.full -= int64(time.Second) / int64(perSecond)
}

// AcquireToRead is Acquire for a request that makes content. If the outermost container has
// read more than Config.MaxRate, the request waits before. Programs of the host do not.
func (r *Registry) AcquireToRead(pid int, t Turn) (*Container, error) {
	c, err := r.Acquire(pid, t)
	if err != nil || r.cfg.MaxRate <= 0 || c.init.Host {
		return c, err
	}
	o := c.space.owner
	wait := o.allowance.take(c.now, r.cfg.MaxRate)
	if wait == 0 {
		return c, nil
	}
	// It takes memory, and may have ended by then.
	c.Release()
	o.delayed.Add(1)
	r.counts.delayed.Add(1)
	r.delaying.Add(1)
	err = t.Delay(o.id, wait)
	r.delaying.Add(-1)
	if err != nil {
		o.allowance.giveBack(r.cfg.MaxRate)
		return nil, refusal{err}
	}
	return r.Acquire(pid, t)
}
