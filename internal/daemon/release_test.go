// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsReleasedOnceForManyContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var freed atomic.Int32
		m := newMemoryReleaser()
		m.release = func() { freed.Add(1) }
		end := func(n int, want int32) {
			t.Helper()
			for range n {
				m.containerEnded()
			}
			time.Sleep(releaseDelay + time.Second)
			if got := freed.Load(); got != want {
				t.Errorf("%d more have ended: freed %d times, want %d", n, got, want)
			}
		}
		end(releaseCount-1, 0)
		end(1, 1)
		end(10*releaseCount, 2)
		end(1, 2)
	})
}
