// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
)

// NoLimit is the limit of a group that has none.
const NoLimit = math.MaxUint64

// v1NoLimit is what v1 shows for no limit: the largest page counter,
// LONG_MAX / PAGE_SIZE pages (page_counter.h). Pages may be up to 64 KiB, so
// everything from here on is no limit.
const v1NoLimit = math.MaxInt64 &^ 0xffff

// ErrNotEnabled says that the group does not have the controller's files.
var ErrNotEnabled = errors.New("controller is not enabled")

// MemoryUsage is what the memory controller says of a group. All values are in
// bytes. What the group used is 0 if only its ancestors have the controller.
type MemoryUsage struct {
	// Limit is the smallest memory.max of the group and its ancestors.
	Limit uint64
	Usage uint64
	// Free is the smallest headroom: how much more each of them may use before its
	// memory.max or memory.high. Available is the same with what it can reclaim.
	// Both are NoLimit if none of them has such a limit.
	Free, Available uint64
	// SwapAccounted reports whether the kernel counts the group's swap.
	SwapAccounted bool
	// SwapLimit is the most swap that the group could fill: the smallest limit
	// of it and its ancestors. On v1 that is the limit of memory and swap
	// together, since the kernel may swap out all of it; with a swappiness of 0
	// it swaps nothing more, and the limit is what is swapped.
	SwapLimit uint64
	// SwapFree is the smallest headroom of swap, NoLimit if there is no limit.
	SwapFree  uint64
	SwapUsage uint64
	Stat      MemoryStat
}

// MemoryFiles keeps open the memory controller's files of a container. Read is
// safe for concurrent use, Close is not.
type MemoryFiles struct {
	files
	v2         bool
	own        memoryLevel
	above      []memoryLevel // the ancestors that have the controller, nearest first
	swappiness *held.File    // v1
	// Incomplete says that the controller is enabled only above the container,
	// so that the files to read change when it is enabled there.
	Incomplete bool
	notEnabled error
}

// memoryLevel are the files of one group. On v1 there is no high, and those of
// swap count memory and swap together; limit and swapMax of the container's own
// group are not open, for its stat has them.
type memoryLevel struct {
	limit, high, usage, stat *held.File
	swapMax, swapUsage       *held.File
}

// OpenMemory opens what Read needs at p.
func OpenMemory(o *held.Opener, p Place) (*MemoryFiles, error) {
	m := &MemoryFiles{files: files{opener: o}, v2: p.V2, notEnabled: notEnabled(p.Dirs, "memory.stat")}
	for i, dir := range p.Dirs {
		l := m.openLevel(i, dir)
		switch {
		case i == 0:
			m.own = l
		case l.usage != nil:
			m.above = append(m.above, l)
		}
	}
	m.Incomplete = m.own.usage == nil
	switch {
	case m.err != nil:
	case m.Incomplete:
		m.err = checkRemoved(p.Dirs)
	case !p.V2:
		m.swappiness = m.optional(0, p.Dirs[0]+"/memory.swappiness")
	}
	return opened(m, &m.files)
}

// openLevel opens the files of the group so many levels above the container's: none
// if it does not have the controller.
func (m *MemoryFiles) openLevel(level int, dir string) (l memoryLevel) {
	open := func(name string) *held.File { return m.optional(level, dir+"/"+name) }
	usage, limit, swapMax, swapUsage := "memory.current", "memory.max", "memory.swap.max", "memory.swap.current"
	if !m.v2 {
		usage, limit, swapMax, swapUsage = "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"
	}
	if l.usage = open(usage); l.usage == nil {
		return l
	}
	if l.stat = open("memory.stat"); l.stat == nil && m.err == nil {
		m.err = fmt.Errorf("%s/memory.stat: %w", dir, unix.ENODEV) // removed just now
	}
	if m.v2 || level > 0 {
		l.limit, l.swapMax = open(limit), open(swapMax)
	}
	if m.v2 {
		l.high = open("memory.high")
	}
	l.swapUsage = open(swapUsage)
	return l
}

// Read fills u. total and swap are the memory and the swap of the host: a limit of
// total or more is none, and without swap none is read. It returns the buffer it
// worked in, grown if it had to be.
//
// ErrNotEnabled says that the group does not have the controller, and no limit of
// its ancestors holds: nothing is known.
func (m *MemoryFiles) Read(u *MemoryUsage, total, swap uint64, buf []byte) ([]byte, error) {
	*u = MemoryUsage{Limit: NoLimit, Free: NoLimit, Available: NoLimit, SwapLimit: NoLimit, SwapFree: NoLimit}
	r := reader{buf: buf}
	v1 := v1Limits{NoLimit, NoLimit}
	if m.own.usage != nil {
		u.Usage = r.number(m.own.usage)
		v1 = m.readStat(&u.Stat, &m.own, &r)
		u.Limit = v1.memory
	}
	var room [maxLevels]headroom
	m.readFree(u, &room, min(total, NoLimit-1), v1.memory, &r)
	m.readAvailable(u, &room, &r)
	if swap != 0 {
		m.readSwap(u, v1, &r)
	}
	if r.err == nil && m.Incomplete && u.Free == NoLimit && u.SwapFree == NoLimit {
		r.err = m.notEnabled
	}
	return r.buf, r.err
}

// level returns the files of the group so many levels above the container's, of
// those that have the controller.
func (m *MemoryFiles) level(i int) *memoryLevel {
	if i == 0 {
		return &m.own
	}
	return &m.above[i-1]
}

// readStat reads the memory.stat of a level, and the limits that it has on v1.
func (m *MemoryFiles) readStat(s *MemoryStat, l *memoryLevel, r *reader) v1Limits {
	text := r.text(l.stat)
	if m.v2 {
		s.parse(text)
		return v1Limits{NoLimit, NoLimit}
	}
	return s.parseV1(text)
}

// headroom is what one level has left.
type headroom struct{ limit, usage uint64 }

func (h *headroom) free() uint64 { return h.limit - min(h.usage, h.limit) }

// available is free, and what the level can reclaim. A level can be above its limit.
func (h *headroom) available(s *MemoryStat) uint64 {
	most := saturated(h.limit, s.reclaimable())
	return most - min(h.usage, most)
}

// readFree sets Limit and Free, and room of each level, to NoLimit for one that does
// not count: one of no smaller limit than total or an ancestor's has more headroom than
// that. On v1 smallest is the smallest limit of all levels; a level with a smaller one
// does not hold (use_hierarchy is 0).
func (m *MemoryFiles) readFree(u *MemoryUsage, room *[maxLevels]headroom, total, smallest uint64, r *reader) {
	for i := len(m.above); i >= 0; i-- {
		room[i].limit = NoLimit
		l := m.level(i)
		if l.usage == nil || !m.v2 && smallest >= total {
			continue
		}
		limit := smallest // that of the own group on v1, or more
		if l.limit != nil {
			limit = r.limit(l.limit)
		}
		if m.v2 {
			u.Limit = min(u.Limit, limit)
			limit = min(limit, r.limit(l.high))
		}
		if limit >= total || !m.v2 && limit < smallest {
			continue
		}
		total = limit
		room[i] = headroom{limit, u.Usage}
		if i > 0 {
			room[i].usage = r.number(l.usage)
		}
		u.Free = min(u.Free, room[i].free())
	}
}

// readAvailable sets Available, from the room of each level. A group can reclaim at
// least what those below it can. So of those that have the smallest headroom, and of
// those below them, only one counts whose headroom is smaller than what is available at
// another.
func (m *MemoryFiles) readAvailable(u *MemoryUsage, room *[maxLevels]headroom, r *reader) {
	if u.Free == NoLimit {
		return
	}
	if room[0].limit != NoLimit {
		u.Available = room[0].available(&u.Stat)
	}
	top := len(m.above)
	for room[top].free() != u.Free {
		top--
	}
	for i := top; i > 0; i-- {
		if l := m.level(i); room[i].free() < u.Available {
			var s MemoryStat
			m.readStat(&s, l, r)
			u.Available = min(u.Available, room[i].available(&s))
		}
	}
}

// readSwap sets the fields of swap, as readFree those of memory.
func (m *MemoryFiles) readSwap(u *MemoryUsage, v1 v1Limits, r *reader) {
	tightest := uint64(NoLimit)
	for i := len(m.above); i >= 0; i-- {
		l := m.level(i)
		if l.swapUsage == nil {
			continue
		}
		u.SwapAccounted = true
		limit := v1.memsw
		if l.swapMax != nil && (m.v2 || limit != NoLimit) {
			limit = r.limit(l.swapMax)
		}
		if i > 0 && (limit >= tightest || !m.v2 && limit < v1.memsw) {
			continue
		}
		usage := r.number(l.swapUsage)
		if !m.v2 { // of memory and swap together
			usage -= min(r.number(l.usage), usage)
		}
		if i == 0 {
			u.SwapUsage = usage
		}
		if limit < tightest {
			tightest = limit
			u.SwapFree = min(u.SwapFree, limit-min(usage, limit))
		}
	}
	u.SwapLimit = tightest
	if m.v2 || !u.SwapAccounted {
		return
	}
	if v1.memsw != NoLimit && v1.memory != NoLimit {
		u.SwapLimit = max(v1.memsw, v1.memory)
	}
	if m.swappiness != nil && r.number(m.swappiness) == 0 {
		u.SwapLimit = u.SwapUsage
	}
}

// saturated is a + b, at most NoLimit.
func saturated(a, b uint64) uint64 {
	if a+b < a {
		return NoLimit
	}
	return a + b
}

// v1Limits are the limits through the hierarchy, of memory and of memory and swap
// together.
type v1Limits struct{ memory, memsw uint64 }
