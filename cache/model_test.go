// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is the cache as a slice, least recently used (values) or oldest
// (failures) first. It is slow and obvious.
type model struct {
	max, share int
	kept       []modelItem
	owners     []uint64 // of the values, least recently used first
	left       []departure
}

type modelItem struct {
	k, v   int
	failed bool
	stored time.Duration
}

func (m *model) find(k int) int {
	return slices.IndexFunc(m.kept, func(it modelItem) bool { return it.k == k })
}

func (it modelItem) expired(now time.Duration) bool {
	if it.failed {
		return now-it.stored >= 3
	}
	return now-it.stored >= 10
}

func (m *model) leave(i int) {
	it := m.kept[i]
	m.left = append(m.left, departure{it.k, it.v, it.failed})
	m.drop(i)
}

// drop removes an item, and its owner with its last value.
func (m *model) drop(i int) {
	it := m.kept[i]
	m.kept = slices.Delete(m.kept, i, i+1)
	if !it.failed && m.count(it.owned) == 0 {
		m.owners = slices.DeleteFunc(m.owners, func(o uint64) bool { return o == it.owner() })
	}
}

func (it modelItem) owner() uint64              { return testOwner(it.v) }
func (it modelItem) owned(other modelItem) bool { return !other.failed && other.owner() == it.owner() }
func (it modelItem) isFailure() bool            { return it.failed }

func (m *model) count(which func(modelItem) bool) (n int) {
	for _, it := range m.kept {
		if which(it) {
			n++
		}
	}
	return n
}

// use marks the value at i as used.
func (m *model) use(i int) {
	it := m.kept[i]
	m.kept = append(slices.Delete(m.kept, i, i+1), it)
	m.owners = append(slices.DeleteFunc(m.owners, func(o uint64) bool { return o == it.owner() }), it.owner())
}

// makeRoom removes what the last item has no room beside.
func (m *model) makeRoom() {
	last := len(m.kept) - 1
	it, others := m.kept[last], m.kept[:last]
	failure := slices.IndexFunc(others, modelItem.isFailure)
	own := slices.IndexFunc(others, it.owned)
	switch {
	case it.failed && m.count(modelItem.isFailure) > m.share:
		m.leave(failure)
	case !it.failed && m.count(it.owned) > m.share:
		m.leave(own)
	case len(m.kept) <= m.max:
	case failure >= 0:
		m.leave(failure)
	case !it.failed && own >= 0:
		m.leave(own)
	default:
		m.leave(slices.IndexFunc(m.kept, func(it modelItem) bool { return it.owner() == m.owners[0] }))
	}
}

// get returns the fresh outcome and marks it as used.
func (m *model) get(k int, now time.Duration) (modelItem, bool) {
	i := m.find(k)
	if i < 0 || m.kept[i].expired(now) {
		return modelItem{}, false
	}
	it := m.kept[i]
	if !it.failed {
		m.use(i)
	}
	return it, true
}

// do is a Do whose fill gives v, or the stale value again if renew is set.
func (m *model) do(k, v int, failed, renew bool, now time.Duration) modelItem {
	if it, ok := m.get(k, now); ok {
		return it
	}
	for {
		i := slices.IndexFunc(m.kept, func(it modelItem) bool { return it.failed && it.expired(now) })
		if i < 0 {
			break
		}
		m.leave(i)
	}
	if i := m.find(k); i >= 0 {
		if renew {
			v = m.kept[i].v
			m.drop(i)
		} else {
			m.leave(i)
		}
	}
	it := modelItem{k, v, failed, now}
	m.kept = append(m.kept, it)
	if !failed {
		m.use(len(m.kept) - 1)
	}
	m.makeRoom()
	return it
}

// runModel plays the operations that ops spells on the cache and on the model.
func runModel(t *testing.T, maxLen, share int, ops []byte) {
	h := newSharedHarness(maxLen, share)
	m := &model{max: max(maxLen, 1), share: share}
	if share < 1 || share > m.max {
		m.share = m.max
	}
	for n, op := range ops {
		k, v := int(op>>3)%6, 100+n
		switch op & 7 {
		case 0:
			h.now += time.Duration(op >> 3)
		case 1:
			it, ok := m.get(k, h.now)
			if gv, gok, gerr := h.Get(k); gv != it.v || gok != ok || (gerr != nil) != it.failed {
				t.Fatalf("op %d: Get(%d) = %d, %v, %v; model: %+v, %v", n, k, gv, gok, gerr, it, ok)
			}
		case 2:
			i := m.find(k)
			if i < 0 {
				break
			}
			if !h.Delete(k, m.kept[i].v) {
				t.Fatalf("op %d: Delete(%d) found nothing, model has %+v", n, k, m.kept[i])
			}
			m.leave(i)
		default:
			failed, renew := op&7 == 3, op&7 == 4
			want := m.do(k, v, failed, renew, h.now)
			got, err := h.Do(k, func(stale int, ok bool) (int, error) {
				switch {
				case failed:
					return v, errFill
				case renew && ok:
					return stale, nil
				}
				return v, nil
			})
			if got != want.v || (err != nil) != want.failed {
				t.Fatalf("op %d: Do(%d) = %d, %v; model: %+v", n, k, got, err, want)
			}
		}
		// What leaves to make room does so after the stale value in both.
		if !slices.Equal(h.left, m.left) {
			t.Fatalf("op %d: left the cache: %v; model: %v", n, h.left, m.left)
		}
		h.left, m.left = nil, nil
		if h.Len() != len(m.kept) {
			t.Fatalf("op %d: Len = %d; model: %d", n, h.Len(), len(m.kept))
		}
	}
}

func FuzzCacheDoesWhatTheModelDoes(f *testing.F) {
	f.Add(uint8(2), uint8(1), []byte{5, 13, 21, 1, 0x58, 5, 4, 3, 2})
	f.Fuzz(func(t *testing.T, maxLen, share uint8, ops []byte) { runModel(t, int(maxLen%6), int(share%6), ops) })
}

func TestCacheDoesWhatTheModelDoes(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		ops := make([]byte, 400)
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		runModel(t, int(seed%6), int(seed/6%6), ops)
	}
}
