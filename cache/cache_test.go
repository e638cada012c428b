// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var errFill = errors.New("fill failed")

// harness is a cache with a clock set by hand and a record of what left it.
type harness struct {
	*Cache[int, int]
	now  time.Duration
	left []departure
}

type departure struct {
	K, V   int
	Failed bool
}

// testOwner is the owner of a value in the tests: its last digit.
func testOwner(v int) uint64 { return uint64(v % 10) }

func newHarness(maxLen int) *harness { return newSharedHarness(maxLen, 0) }

func newSharedHarness(maxLen, share int) *harness {
	h := &harness{}
	h.Cache = New(Config[int, int]{
		TTL: 10, ErrorTTL: 3, Max: maxLen, Share: share, Owner: testOwner,
		Now: func() time.Duration { return h.now },
		Evicted: func(k, v int, err error) {
			h.left = append(h.left, departure{k, v, err != nil})
		},
	})
	return h
}

func (h *harness) put(t *testing.T, k, v int, err error) {
	t.Helper()
	ran := false
	got, gotErr := h.Do(k, func(int, bool) (int, error) { ran = true; return v, err })
	if !ran || got != v || gotErr != err {
		t.Fatalf("Do(%d): ran %v, got %d, %v; want the fill's %d, %v", k, ran, got, gotErr, v, err)
	}
}

func (h *harness) wantLeft(t *testing.T, want ...departure) {
	t.Helper()
	if !slices.Equal(h.left, want) {
		t.Errorf("left the cache: %v, want %v", h.left, want)
	}
	h.left = nil
}

func (h *harness) wantGet(t *testing.T, k, v int, ok bool, err error) {
	t.Helper()
	if gv, gok, gerr := h.Get(k); gv != v || gok != ok || gerr != err {
		t.Errorf("Get(%d) = %d, %v, %v; want %d, %v, %v", k, gv, gok, gerr, v, ok, err)
	}
}

func TestValueIsFreshUntilTTL(t *testing.T) {
	h := newHarness(4)
	h.put(t, 1, 11, nil)
	h.now = 9
	h.wantGet(t, 1, 11, true, nil)
	h.now = 10
	h.wantGet(t, 1, 0, false, nil)
	h.wantLeft(t)
}

func TestFailureIsFreshUntilErrorTTL(t *testing.T) {
	h := newHarness(4)
	h.put(t, 1, 11, errFill)
	h.now = 2
	h.wantGet(t, 1, 11, true, errFill)
	h.now = 3
	h.wantGet(t, 1, 0, false, nil)
	h.put(t, 1, 12, nil)
	h.wantLeft(t, departure{1, 11, true})
}

func TestATransientFailureIsNotKept(t *testing.T) {
	h := newHarness(4)
	h.conf.Transient = func(err error) bool { return err == errFill }
	h.put(t, 1, 11, errFill)
	h.wantGet(t, 1, 0, false, nil)
	h.wantLeft(t, departure{1, 11, true})
	h.put(t, 1, 12, nil)
	h.wantGet(t, 1, 12, true, nil)
}

func TestExpiredFailuresLeaveAtNextFillOfAnyKey(t *testing.T) {
	h := newHarness(8)
	h.put(t, 1, 11, errFill)
	h.now = 1
	h.put(t, 2, 12, errFill)
	h.now = 3
	h.put(t, 3, 13, nil)
	h.wantLeft(t, departure{1, 11, true})
	h.wantGet(t, 2, 12, true, errFill)
}

func TestStaleValueIsGivenToFillAndRenewed(t *testing.T) {
	h := newHarness(4)
	h.put(t, 1, 11, nil)
	h.now = 10
	v, err := h.Do(1, func(stale int, ok bool) (int, error) {
		if stale != 11 || !ok {
			t.Errorf("fill got %d, %v; want the stale 11", stale, ok)
		}
		if h.Delete(1, 11) || h.Len() != 0 {
			t.Error("the stale value is in reach while a fill holds it")
		}
		return stale, nil
	})
	if v != 11 || err != nil {
		t.Errorf("Do = %d, %v; want 11", v, err)
	}
	h.wantLeft(t)
	h.now = 19
	h.wantGet(t, 1, 11, true, nil)
}

func TestStaleValueLeavesWhenReplacedOrWhenRefillFails(t *testing.T) {
	h := newHarness(4)
	h.put(t, 1, 11, nil)
	h.now = 10
	h.put(t, 1, 12, nil)
	h.wantLeft(t, departure{1, 11, false})
	h.now = 20
	h.put(t, 1, 0, errFill)
	h.wantLeft(t, departure{1, 12, false})
	h.wantGet(t, 1, 0, true, errFill)
}

func TestLeastRecentlyUsedValueMakesRoom(t *testing.T) {
	h := newHarness(2)
	h.put(t, 1, 11, nil)
	h.put(t, 2, 12, nil)
	h.wantGet(t, 1, 11, true, nil)
	h.put(t, 3, 13, nil)
	h.wantLeft(t, departure{2, 12, false})
	h.wantGet(t, 1, 11, true, nil)
}

func TestFailuresDoNotDriveOutValues(t *testing.T) {
	h := newHarness(3)
	h.put(t, 1, 11, nil)
	h.put(t, 2, 12, nil)
	for k := 10; k < 20; k++ {
		h.put(t, k, k, errFill)
	}
	h.wantGet(t, 1, 11, true, nil)
	h.wantGet(t, 2, 12, true, nil)
	h.wantGet(t, 19, 19, true, errFill)
	if h.Len() != 3 {
		t.Errorf("Len = %d, want 3", h.Len())
	}
}

func TestOwnerBeyondItsShareLosesItsOwnValues(t *testing.T) {
	h := newSharedHarness(8, 2)
	h.put(t, 1, 11, nil)
	h.put(t, 2, 22, nil)
	h.put(t, 3, 32, nil)
	h.put(t, 4, 42, nil)
	h.wantLeft(t, departure{2, 22, false})
	h.wantGet(t, 1, 11, true, nil)
}

// TestOwnerThatFillsTheCacheLosesItsOwnValues: here the shares add up to more than
// the cache has.
func TestOwnerThatFillsTheCacheLosesItsOwnValues(t *testing.T) {
	h := newSharedHarness(3, 3)
	h.put(t, 1, 11, nil) // least recently used
	h.put(t, 2, 22, nil)
	h.put(t, 3, 32, nil)
	h.put(t, 4, 42, nil)
	h.wantLeft(t, departure{2, 22, false})
	// An owner without values takes the place of the owner that was used least recently.
	h.put(t, 5, 53, nil)
	h.wantLeft(t, departure{1, 11, false})
}

func TestFailuresHaveAShareToo(t *testing.T) {
	h := newSharedHarness(8, 2)
	for k := range 3 {
		h.put(t, k, k, errFill)
	}
	h.wantLeft(t, departure{0, 0, true})
}

func TestDeleteOnlyDropsTheValueItNames(t *testing.T) {
	h := newHarness(4)
	h.put(t, 1, 11, nil)
	if h.Delete(1, 10) || h.Delete(2, 11) {
		t.Error("Delete dropped something else than what it was told to")
	}
	h.now = 100 // stale values are in reach too
	if !h.Delete(1, 11) || h.Delete(1, 11) {
		t.Error("Delete must drop the value once")
	}
	h.wantLeft(t, departure{1, 11, false})
}

func TestPanickingFillWakesItsWaiters(t *testing.T) {
	for _, how := range []string{"panic", "Goexit"} {
		h := newHarness(4)
		h.put(t, 1, 11, nil)
		h.now = 10
		inFill, goOn := make(chan struct{}), make(chan struct{})
		go func() {
			defer func() { _ = recover() }()
			_, _ = h.Do(1, func(int, bool) (int, error) {
				close(inFill)
				<-goOn
				if how == "panic" {
					panic("fill")
				}
				runtime.Goexit()
				return 0, nil
			})
		}()
		<-inFill
		waited := make(chan error)
		go func() {
			_, err := h.Do(1, func(int, bool) (int, error) { return 12, nil })
			waited <- err
		}()
		close(goOn)
		// The waiter may come after the fill has ended, and then runs its own.
		if err := <-waited; err != nil && err != ErrAborted {
			t.Errorf("%s: waiter got %v, want ErrAborted or its own fill", how, err)
		}
		if _, err := h.Do(1, func(int, bool) (int, error) { return 13, nil }); err != nil {
			t.Errorf("%s: the key is wedged: %v", how, err)
		}
	}
}

func TestCloseOvertakingAFillEvictsBothValues(t *testing.T) {
	h := newHarness(4)
	h.put(t, 1, 11, nil)
	h.put(t, 2, 12, nil)
	h.now = 10
	_, err := h.Do(1, func(int, bool) (int, error) {
		h.Close()
		return 13, nil
	})
	if err != ErrClosed {
		t.Errorf("Do = %v, want ErrClosed", err)
	}
	h.wantLeft(t, departure{2, 12, false}, departure{1, 11, false}, departure{1, 13, false})
	if _, err := h.Do(1, func(int, bool) (int, error) { return 1, nil }); err != ErrClosed {
		t.Errorf("Do after Close = %v, want ErrClosed", err)
	}
	h.wantGet(t, 2, 0, false, nil)
}

func TestOneFillForManyAskers(t *testing.T) {
	c := New(Config[int, int]{TTL: time.Hour, Max: 4})
	var fills atomic.Int32
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			v, err := c.Do(7, func(int, bool) (int, error) {
				fills.Add(1)
				time.Sleep(20 * time.Millisecond)
				return 42, nil
			})
			if v != 42 || err != nil {
				t.Errorf("Do = %d, %v; want 42", v, err)
			}
		})
	}
	wg.Wait()
	if n := fills.Load(); n != 1 {
		t.Errorf("%d fills, want 1", n)
	}
}

// TestEveryValueLeavesExactlyOnce fills, deletes and evicts from many
// goroutines; each fill makes a value of its own, a pointer.
func TestEveryValueLeavesExactlyOnce(t *testing.T) {
	type value struct{ left atomic.Int32 }
	var mu sync.Mutex
	var all []*value
	c := New(Config[int, *value]{
		TTL: 50 * time.Microsecond, ErrorTTL: 50 * time.Microsecond, Max: 8,
		Evicted: func(_ int, v *value, _ error) { v.left.Add(1) },
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				k := rand.IntN(16)
				switch rand.IntN(4) {
				case 0:
					if v, ok, _ := c.Get(k); ok {
						c.Delete(k, v)
					}
				default:
					_, _ = c.Do(k, func(stale *value, ok bool) (*value, error) {
						if ok && stale.left.Load() != 0 {
							t.Error("fill got a value that has left already")
						}
						if ok && rand.IntN(2) == 0 {
							return stale, nil
						}
						v := &value{}
						mu.Lock()
						all = append(all, v)
						mu.Unlock()
						if rand.IntN(3) == 0 {
							return v, errFill
						}
						return v, nil
					})
				}
				if c.Len() > 8 {
					t.Error("more entries than Max")
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	for _, v := range all {
		if n := v.left.Load(); n != 1 {
			t.Fatalf("a value left %d times, want once", n)
		}
	}
}

func TestHitDoesNotAllocate(t *testing.T) {
	c := New(Config[uint64, *int]{TTL: time.Hour, Max: 4})
	n := 1
	_, _ = c.Do(7, func(*int, bool) (*int, error) { return &n, nil })
	if a := testing.AllocsPerRun(1000, func() { _, _, _ = c.Get(7) }); a != 0 {
		t.Errorf("Get allocates %v times, want 0", a)
	}
}

func BenchmarkGet(b *testing.B) {
	c := New(Config[uint64, *int]{TTL: time.Hour, Max: 4096})
	for k := range uint64(1000) {
		_, _ = c.Do(k, func(*int, bool) (*int, error) { return new(int), nil })
	}
	b.ReportAllocs()
	k := uint64(0)
	for b.Loop() {
		_, _, _ = c.Get(k % 1000)
		k++
	}
}
