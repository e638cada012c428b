// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// async makes the work of a queue of a function that waits.
func async(work func(job) (hung bool)) func(job, func(hung bool)) {
	return func(j job, done func(hung bool)) {
		go func() { done(work(j)) }()
	}
}

// TestOwnerWhoseJobsHangDelaysNoOther: a hostile owner has many jobs, each of which
// takes its whole patience; the job of another owner starts at once.
func TestOwnerWhoseJobsHangDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hostile = 1
		var mu sync.Mutex
		most, running, alone := 0, 0, 0
		late := time.Duration(0)
		q := newQueue(async(func(j job) bool {
			if j.owner != hostile {
				mu.Lock()
				late = max(late, time.Since(j.seen))
				mu.Unlock()
				time.Sleep(time.Millisecond)
				return false
			}
			mu.Lock()
			running++
			most = max(most, running)
			if j.alone {
				alone++
				if running > 1 {
					t.Error("a job of an owner that has hung runs beside another of it")
				}
			}
			mu.Unlock()
			time.Sleep(2 * time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return true
		}))
		for range 50 {
			if !q.push(job{owner: hostile, seen: time.Now()}) {
				t.Fatal("a job is refused")
			}
		}
		for i := range 100 {
			time.Sleep(100 * time.Millisecond)
			q.push(job{owner: uint64(2 + i%10), seen: time.Now()})
		}
		q.wait()
		if late > 0 {
			t.Errorf("the job of another owner waited %s", late)
		}
		if most != maxRunningOwner || alone < 50-2*maxRunningOwner {
			t.Errorf("%d jobs at a time, %d alone", most, alone)
		}
		time.Sleep(2 * penalty)
		q.push(job{owner: 99})
		q.wait()
		if len(q.lanes) > 0 {
			t.Errorf("%d owners are remembered", len(q.lanes))
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	block := make(chan struct{})
	q := newQueue(async(func(job) bool { <-block; return false }))
	taken := 0
	for q.push(job{owner: 1}) {
		taken++
	}
	if want := maxWaitingOwner + maxRunningOwner; taken != want {
		t.Errorf("an owner may have %d jobs, want %d", taken, want)
	}
	for owner := uint64(2); q.push(job{owner: owner}); owner++ {
		taken++
	}
	if want := maxWaiting + maxRunning; taken != want {
		t.Errorf("%d jobs are taken, want %d", taken, want)
	}
	close(block)
	q.wait()
}

// TestJobsOfAnOwnerStartInOrder of their events.
func TestJobsOfAnOwnerStartInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []int
		q := newQueue(async(func(j job) bool {
			mu.Lock()
			order = append(order, j.pid)
			mu.Unlock()
			time.Sleep(time.Duration(10+j.pid) * time.Millisecond)
			return false
		}))
		for pid := range 20 {
			q.push(job{owner: 1, pid: pid})
			synctest.Wait()
		}
		q.wait()
		if !slices.IsSorted(order) || len(order) != 20 {
			t.Errorf("order %v", order)
		}
	})
}
