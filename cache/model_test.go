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
	max  int
	kept []modelItem
	left []departure
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

func (m *model) leave(i int, why Reason) {
	it := m.kept[i]
	m.kept = slices.Delete(m.kept, i, i+1)
	m.left = append(m.left, departure{it.k, it.v, it.failed, why})
}

// get returns the fresh outcome and marks it as used.
func (m *model) get(k int, now time.Duration) (modelItem, bool) {
	i := m.find(k)
	if i < 0 || m.kept[i].expired(now) {
		return modelItem{}, false
	}
	it := m.kept[i]
	if !it.failed {
		m.kept = append(slices.Delete(m.kept, i, i+1), it)
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
		m.leave(i, Expired)
	}
	if i := m.find(k); i >= 0 {
		switch {
		case renew:
			v = m.kept[i].v
			m.kept = slices.Delete(m.kept, i, i+1)
		case failed:
			m.leave(i, Expired)
		default:
			m.leave(i, Replaced)
		}
	}
	it := modelItem{k, v, failed, now}
	m.kept = append(m.kept, it)
	for len(m.kept) > m.max {
		i := slices.IndexFunc(m.kept[:len(m.kept)-1], func(it modelItem) bool { return it.failed })
		m.leave(max(i, 0), Room)
	}
	return it
}

// runModel plays the operations that ops spells on the cache and on the model.
func runModel(t *testing.T, maxLen int, ops []byte) {
	h := newHarness(maxLen)
	m := &model{max: max(maxLen, 1)}
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
			m.leave(i, Deleted)
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
	f.Add(uint8(2), []byte{5, 13, 21, 1, 0x58, 5, 4, 3, 2})
	f.Fuzz(func(t *testing.T, maxLen uint8, ops []byte) { runModel(t, int(maxLen%6), ops) })
}

func TestCacheDoesWhatTheModelDoes(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		ops := make([]byte, 400)
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		runModel(t, int(seed%6), ops)
	}
}
