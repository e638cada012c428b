// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/held"
)

// hierarchy is a container's group and its ancestors, nearest first, with siblings.
type hierarchy struct {
	t      *testing.T
	rng    *rand.Rand
	v2     bool
	place  cgroup.Place
	levels []level
	// counted says that the container's own group has the controller.
	counted bool
	files   *cgroup.MemoryFiles
	opener  held.Opener
	host    hostMemory
	text    []byte // the host's meminfo
	written map[string]string
}

// level is one group. Usage is what it and all below it use.
type level struct {
	limit, high, usage, reclaimable uint64 // 0 is no limit
	swapLimit, swapUsage            uint64
}

func newHierarchy(t *testing.T, rng *rand.Rand, v2 bool, text []byte) *hierarchy {
	h := &hierarchy{t: t, rng: rng, v2: v2, levels: make([]level, 1+rng.IntN(6)), counted: true, text: text, written: map[string]string{}}
	dir := t.TempDir()
	h.place = cgroup.Place{V2: v2, Top: dir}
	for range h.levels {
		dir = filepath.Join(dir, "g")
		h.place.Dirs = append([]string{dir}, h.place.Dirs...)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h.host.parse(text)
	t.Cleanup(h.close)
	return h
}

func (h *hierarchy) close() {
	if h.files != nil {
		h.files.Close()
		h.files = nil
	}
}

// change makes other limits and usages. What a group uses, and of that what it can
// reclaim, is what those below it do, and more: its siblings'.
func (h *hierarchy) change() {
	pages := func(most int) uint64 { return uint64(h.rng.IntN(most)) << 12 }
	limit := func(most int) uint64 {
		if h.rng.IntN(2) == 0 {
			return 0
		}
		return pages(most) + 4096
	}
	if h.rng.IntN(6) == 0 {
		h.counted = !h.v2 || !h.counted || len(h.levels) == 1
		h.close()
	}
	const most = 1 << 16 // 256 MiB in pages
	below := level{}
	for i := range h.levels {
		l := &h.levels[i]
		l.usage, l.reclaimable, l.swapUsage = below.usage, below.reclaimable, below.swapUsage
		if h.rng.IntN(2) == 0 {
			more := pages(most / 2)
			l.usage += more
			l.reclaimable += more / uint64(1+h.rng.IntN(5)) &^ 4095
			l.swapUsage += pages(most / 8)
		}
		below = *l
		if h.rng.IntN(2) == 0 {
			l.limit, l.swapLimit = limit(most*2), limit(most)
			if l.high = 0; h.v2 {
				l.high = limit(most * 2)
			} else if l.swapLimit != 0 {
				// No kernel allows less of both than of memory.
				if l.limit == 0 {
					l.limit = l.swapLimit
				}
				l.swapLimit += l.limit
			}
		}
	}
	h.write()
}

func (h *hierarchy) write() {
	number := func(n uint64) string {
		switch {
		case n != 0:
			return fmt.Sprint(n)
		case h.v2:
			return "max"
		}
		return "9223372036854771712"
	}
	least := func(of func(*level) uint64) (n uint64) {
		for i := range h.levels {
			if l := of(&h.levels[i]); l != 0 && (n == 0 || l < n) {
				n = l
			}
		}
		return n
	}
	for i, l := range h.levels {
		files := map[string]string{
			"memory.max": number(l.limit), "memory.high": number(l.high), "memory.current": fmt.Sprint(l.usage),
			"memory.swap.max": number(l.swapLimit), "memory.swap.current": fmt.Sprint(l.swapUsage),
			"memory.stat": fmt.Sprintf("anon 4096\nactive_file %d\nslab_reclaimable %d\nfile_mapped 4096\ninactive_file 0", l.reclaimable/2, l.reclaimable-l.reclaimable/2),
		}
		if !h.v2 {
			files = map[string]string{
				"memory.limit_in_bytes": number(l.limit), "memory.usage_in_bytes": fmt.Sprint(l.usage),
				"memory.memsw.limit_in_bytes": number(l.swapLimit), "memory.memsw.usage_in_bytes": fmt.Sprint(l.usage + l.swapUsage),
				"memory.stat": fmt.Sprintf("hierarchical_memory_limit %s\nhierarchical_memsw_limit %s\ntotal_active_file %d",
					number(least(func(l *level) uint64 { return l.limit })), number(least(func(l *level) uint64 { return l.swapLimit })), l.reclaimable),
			}
		}
		for name, text := range files {
			path := filepath.Join(h.place.Dirs[i], name)
			var err error
			if i == 0 && !h.counted {
				if err = os.Remove(path); os.IsNotExist(err) {
					err = nil
				}
				delete(h.written, path)
			} else if h.written[path] != text {
				err = os.WriteFile(path, []byte(text+"\n"), 0o644)
				h.written[path] = text
			}
			if err != nil {
				h.t.Fatal(err)
			}
		}
	}
}

// read returns what meminfo shows, in kB, and false if it is the host's.
func (h *hierarchy) read() (map[string]int, bool) {
	h.t.Helper()
	if h.files == nil {
		var err error
		if h.files, err = cgroup.OpenMemory(&h.opener, h.place); err != nil {
			h.t.Fatal(err)
		}
		if h.files.Incomplete == h.counted {
			h.t.Fatalf("incomplete: %t", h.files.Incomplete)
		}
	}
	n := meminfo{text: h.text, host: h.host, nodes: cgroup.NoLimit}
	if _, err := h.files.Read(&n.memory.MemoryUsage, h.host.total, h.host.swap, nil); err != nil {
		if reasonOf(err) != NoController || h.counted {
			h.t.Fatal(err)
		}
		return nil, false
	}
	return kilobytes(h.t, n.append(nil)), true
}

// TestFreeIsNeverMoreThanALevelHas compares with every level in turn.
func TestFreeIsNeverMoreThanALevelHas(t *testing.T) {
	text := load(t, "trixie-v2").Read(t, "proc/meminfo")
	limited, ancestors := 0, 0
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 9))
		h := newHierarchy(t, rng, seed%2 == 0, text)
		for step := range 12 {
			h.change()
			got, own := h.read()
			const none = ^uint64(0)
			total, free, available := h.host.total, none, none
			swap, swapFree := h.host.swap, none
			smallest := 0
			for i, l := range h.levels {
				if i == 0 && !h.counted {
					continue
				}
				if l.limit != 0 {
					total = min(total, l.limit)
				}
				if l.swapLimit != 0 {
					swap, swapFree = min(swap, l.swapLimit), min(swapFree, sub(l.swapLimit, l.swapUsage))
				}
				limit := min(l.limit-1, l.high-1)
				if limit++; limit == 0 || limit >= h.host.total {
					continue
				}
				if left := sub(limit, l.usage); left < free {
					free, smallest = left, i
				}
				available = min(available, sub(limit+l.reclaimable, l.usage))
			}
			if !own {
				if free != none || swapFree != none {
					t.Fatalf("seed %d step %d: the host's meminfo for %+v", seed, step, h.levels)
				}
				continue
			}
			if limited++; smallest > 0 {
				ancestors++
			}
			if free == none {
				free, available = h.host.free, h.host.available
			}
			used := h.levels[0].swapUsage
			if !h.counted {
				used = 0
			}
			for label, want := range map[string]uint64{
				"MemTotal": total, "MemFree": min(free, total), "MemAvailable": min(available, total),
				"SwapTotal": swap, "SwapFree": min(swapFree, sub(swap, used)),
			} {
				if got[label] != int(want>>10) {
					t.Fatalf("seed %d step %d: %s is %d kB, want %d, counted %t, of %+v", seed, step, label, got[label], want>>10, h.counted, h.levels)
				}
			}
		}
	}
	if limited < 200 || ancestors < 50 {
		t.Errorf("%d steps with limits, %d with the smallest headroom above the container: too little is tested", limited, ancestors)
	}
}
