// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vprocfs/internal/mountinfo"
)

// crowdOf returns n suspects of an owner, with process ids from 1 up.
func crowdOf(owner uint64, n int) (all []*suspect) {
	for i := range n {
		all = append(all, &suspect{owner: owner, View: mountinfo.View{PIDs: []int{i + 1}}})
	}
	return all
}

// TestAHungOwnerDelaysNoOther has jobs of three owners that hang for 5 s each. The
// owner that comes last has one job, which does not hang.
func TestAHungOwnerDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hung = 5 * time.Second
		all := slices.Concat(crowdOf(1, 24), crowdOf(2, 500), crowdOf(3, 1), crowdOf(4, 1))
		start := time.Now()
		var mu sync.Mutex
		running := make(map[uint64]int)
		tried := make(map[uint64]int)
		left := fair(all, func(s *suspect) bool {
			mu.Lock()
			running[s.owner]++
			tried[s.owner]++
			total := 0
			for _, n := range running {
				total += n
			}
			if running[s.owner] > perOwner || total > atOnce {
				t.Errorf("%v jobs run at a time", running)
			}
			mu.Unlock()
			if s.owner != 4 {
				time.Sleep(hung)
			} else if d := time.Since(start); d != 0 {
				t.Errorf("the job that does not hang begins after %s", d)
			}
			mu.Lock()
			running[s.owner]--
			mu.Unlock()
			return false
		})
		if d := time.Since(start); d != hung {
			t.Errorf("the work took %s, want %s", d, hung)
		}
		if tried[1] != perOwner || tried[2] != perOwner || tried[3] != 1 || len(left) != 24+500-2*perOwner {
			t.Errorf("tried %v, left %d", tried, len(left))
		}
	})
}

// TestManyHungOwnersGiveWayToTheOthers has more hung owners than places.
func TestManyHungOwnersGiveWayToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hung = 5 * time.Second
		var all []*suspect
		for owner := range uint64(2 * atOnce) {
			all = append(all, crowdOf(owner+1, 24)...)
		}
		all = append(all, crowdOf(1000, 100)...)
		start := time.Now()
		var mu sync.Mutex
		var last time.Duration
		left := fair(all, func(s *suspect) bool {
			if s.owner == 1000 {
				time.Sleep(5 * time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				last = max(last, time.Since(start))
				return false
			}
			time.Sleep(hung)
			return false
		})
		// Each hung owner has one turn before.
		if most := 2*hung + time.Second; last > most {
			t.Errorf("the last good job ends after %s, want at most %s", last, most)
		}
		if want := 2 * atOnce * (24 - 1); len(left) != want {
			t.Errorf("%d left, want %d", len(left), want)
		}
		if d := time.Since(start); d > 2*hung+time.Second {
			t.Errorf("the work took %s", d)
		}
	})
}

func TestWorkIsDoneAgainAfterTheOthersOfItsOwner(t *testing.T) {
	all := crowdOf(1, 2*perOwner)
	var mu sync.Mutex
	var order []int
	if left := fair(all, func(s *suspect) bool {
		mu.Lock()
		defer mu.Unlock()
		again := s.PIDs[0] == 1 && !slices.Contains(order, 1)
		order = append(order, s.PIDs[0])
		return again
	}); len(left) != 0 {
		t.Errorf("%d left", len(left))
	}
	slices.Sort(order)
	if want := []int{1, 1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
}
