package daemon

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsGivenBackOnceForManyContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var freed atomic.Int32
		tidy := newTidier()
		tidy.free = func() { freed.Add(1) }
		end := func(n int, want int32) {
			t.Helper()
			for range n {
				tidy.gone()
			}
			time.Sleep(tidyAfter + time.Second)
			if got := freed.Load(); got != want {
				t.Errorf("%d more have ended: freed %d times, want %d", n, got, want)
			}
		}
		end(tidyCount-1, 0)
		end(1, 1)
		end(10*tidyCount, 2)
		end(1, 2)
	})
}
