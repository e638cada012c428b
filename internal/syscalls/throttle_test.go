// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"testing"
	"time"
)

// TestThrottleLetsAContainerAskSoMuch has 10,000 calls a second, each as soon as the last is
// answered.
func TestThrottleLetsAContainerAskSoMuch(t *testing.T) {
	var th throttle
	start := time.Unix(1000, 0)
	now, calls := start, 0
	for ; now.Sub(start) < 10*time.Second; calls++ {
		now = now.Add(100*time.Microsecond + th.take(now))
	}
	if want := burst + 10*callsPerSecond; calls < want*99/100 || calls > want*101/100 {
		t.Errorf("%d calls in 10 s, want %d", calls, want)
	}
	// After a rest it has its burst again, and no more.
	now = now.Add(time.Hour)
	for i := range burst {
		if wait := th.take(now); wait > 0 {
			t.Fatalf("call %d waits for %v", i, wait)
		}
	}
	if wait := th.take(now); wait <= 0 || wait > time.Second/callsPerSecond {
		t.Errorf("the call after the burst waits for %v", wait)
	}
}

func TestThrottleOfAFewCallsNeverWaits(t *testing.T) {
	var th throttle
	now := time.Unix(1000, 0)
	for range 10 * burst {
		if wait := th.take(now); wait > 0 {
			t.Fatalf("waits for %v", wait)
		}
		now = now.Add(time.Second / callsPerSecond)
	}
}
