// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestThePulseBeatsWhileRequestsCome watches the timer of a server that gets
// requests, and of one that gets none.
func TestThePulseBeatsWhileRequestsCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse()
		isSet := func() bool {
			synctest.Wait()
			return p.set.Load()
		}
		if time.Sleep(time.Minute); isSet() {
			t.Error("set before the first request")
		}
		for i := range 100 {
			p.beat()
			const step = pulsePeriod - pulsePeriod/7 // of all phases
			if time.Sleep(step); !isSet() {
				t.Fatalf("not set %v after request %d", step, i)
			}
		}
		if time.Sleep(2 * pulsePeriod); isSet() {
			t.Error("still set three periods after the last request: it would wake an idle daemon")
		}
		p.beat()
		if !isSet() {
			t.Error("a request after a pause does not set it")
		}
		time.Sleep(3 * pulsePeriod)
	})
}

func TestThePulseAllocatesNothing(t *testing.T) {
	p := newPulse()
	defer p.timer.Stop()
	if n := testing.AllocsPerRun(1000, p.beat); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}
