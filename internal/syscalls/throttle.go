// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"sync"
	"time"
)

// Bounds of what a container may ask. A call takes some 10 us, so that a container that
// asks without end costs 2 % of a CPU.
const (
	callsPerSecond = 2000
	burst          = 2000
)

// throttle bounds the calls of one container. It is safe for concurrent use.
type throttle struct {
	mu sync.Mutex
	// full is when as many calls as burst are free again.
	full time.Time
}

// take counts a call, and returns how long its caller must wait.
func (t *throttle) take(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.full.Before(now) {
		t.full = now
	}
	t.full = t.full.Add(time.Second / callsPerSecond)
	return max(t.full.Sub(now)-burst*time.Second/callsPerSecond, 0)
}
