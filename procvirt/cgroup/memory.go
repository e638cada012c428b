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
	m := &MemoryFiles{v2: p.V2}
	if err := m.open(o, p); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *MemoryFiles) open(o *held.Opener, p Place) error {
	for i, dir := range p.Dirs {
		var l memoryLevel
		err := l.open(o, i, dir, p.V2)
		switch {
		case i == 0:
			m.own = l
		case l.usage != nil:
			m.above = append(m.above, l)
		}
		if err != nil {
			return err
		}
	}
	var err error
	m.notEnabled = notEnabled(p.Dirs, "memory.stat")
	if m.Incomplete = m.own.usage == nil; m.Incomplete {
		return checkRemoved(p.Dirs)
	}
	if !p.V2 {
		m.swappiness, err = openOptional(o, p.Dirs[0]+"/memory.swappiness")
	}
	return err
}

// open opens the files of the group so many levels above the container's. None is
// open if the group does not have the controller.
func (l *memoryLevel) open(o *held.Opener, level int, dir string, v2 bool) (err error) {
	names := [...]string{"memory.current", "memory.stat", "memory.max", "memory.high", "memory.swap.max", "memory.swap.current"}
	if !v2 {
		names = [...]string{"memory.usage_in_bytes", "memory.stat", "memory.limit_in_bytes", "", "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"}
		if level == 0 {
			names[2], names[4] = "", ""
		}
	}
	for i, to := range [...]**held.File{&l.usage, &l.stat, &l.limit, &l.high, &l.swapMax, &l.swapUsage} {
		if names[i] == "" {
			continue
		}
		if *to, err = openOptionalAt(o, level, dir+"/"+names[i]); err != nil || *to == nil && i == 0 {
			return err
		}
	}
	if l.stat == nil {
		return fmt.Errorf("%s/memory.stat: %w", dir, unix.ENODEV) // removed just now
	}
	return nil
}

func (l *memoryLevel) close() {
	for _, f := range [...]*held.File{l.limit, l.high, l.usage, l.stat, l.swapMax, l.swapUsage} {
		f.Close()
	}
}

// Close closes the files.
func (m *MemoryFiles) Close() {
	if m == nil {
		return
	}
	m.own.close()
	for i := range m.above {
		m.above[i].close()
	}
	m.swappiness.Close()
}

// Read fills u. total and swap are the memory and the swap of the host: a limit of
// total or more is none, and without swap none is read. It returns the buffer it
// worked in, grown where it had to be.
//
// ErrNotEnabled says that the group does not have the controller, and no limit of
// its ancestors holds: nothing is known.
func (m *MemoryFiles) Read(u *MemoryUsage, total, swap uint64, buf []byte) ([]byte, error) {
	*u = MemoryUsage{Limit: NoLimit, Free: NoLimit, Available: NoLimit, SwapLimit: NoLimit, SwapFree: NoLimit}
	buf, err := m.read(u, total, swap, buf)
	if err == nil && m.Incomplete && u.Free == NoLimit && u.SwapFree == NoLimit {
		err = m.notEnabled
	}
	return buf, err
}

// level returns the files of the group so many levels above the container's, of
// those that have the controller.
func (m *MemoryFiles) level(i int) *memoryLevel {
	if i == 0 {
		return &m.own
	}
	return &m.above[i-1]
}

func (m *MemoryFiles) read(u *MemoryUsage, total, swap uint64, buf []byte) (_ []byte, err error) {
	v1 := v1Limits{NoLimit, NoLimit}
	if m.own.usage != nil {
		if buf, err = readUint(m.own.usage, &u.Usage, buf); err != nil {
			return buf, err
		}
		if buf, err = m.own.stat.Read(buf); err != nil {
			return buf, err
		}
		if m.v2 {
			u.Stat.parse(buf)
		} else {
			v1 = u.Stat.parseV1(buf)
			u.Limit = v1.memory
		}
	}
	var room [maxLevels]headroom
	if buf, err = m.readFree(u, &room, min(total, NoLimit-1), v1.memory, buf); err != nil {
		return buf, err
	}
	if buf, err = m.readAvailable(u, &room, buf); err != nil || swap == 0 {
		return buf, err
	}
	return m.readSwap(u, v1, buf)
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
func (m *MemoryFiles) readFree(u *MemoryUsage, room *[maxLevels]headroom, total, smallest uint64, buf []byte) (_ []byte, err error) {
	for i := len(m.above); i >= 0; i-- {
		room[i].limit = NoLimit
		l := m.level(i)
		if l.usage == nil || !m.v2 && smallest >= total {
			continue
		}
		limit := smallest // that of the own group on v1, or more
		if l.limit != nil {
			limit = NoLimit
			if buf, err = readMin(l.limit, &limit, buf); err != nil {
				return buf, err
			}
		}
		if m.v2 {
			u.Limit = min(u.Limit, limit)
			if buf, err = readMin(l.high, &limit, buf); err != nil {
				return buf, err
			}
		} else if limit < smallest {
			continue
		}
		if limit >= total {
			continue
		}
		total = limit
		usage := u.Usage
		if i > 0 {
			if buf, err = readUint(l.usage, &usage, buf); err != nil {
				return buf, err
			}
		}
		room[i] = headroom{limit, usage}
		u.Free = min(u.Free, room[i].free())
	}
	return buf, nil
}

// readAvailable sets Available, from the room of each level. A group can reclaim at
// least what those below it can. So of those that have the smallest headroom, and of
// those below them, only one counts whose headroom is smaller than what is available at
// another.
func (m *MemoryFiles) readAvailable(u *MemoryUsage, room *[maxLevels]headroom, buf []byte) (_ []byte, err error) {
	if u.Free == NoLimit {
		return buf, nil
	}
	if room[0].limit != NoLimit {
		u.Available = room[0].available(&u.Stat)
	}
	top := len(m.above)
	for room[top].free() != u.Free {
		top--
	}
	for i := top; i > 0; i-- {
		l := m.level(i)
		if room[i].free() >= u.Available || l.stat == nil {
			continue
		}
		if buf, err = l.stat.Read(buf); err != nil {
			return buf, err
		}
		var s MemoryStat
		if m.v2 {
			s.parse(buf)
		} else {
			s.parseV1(buf)
		}
		u.Available = min(u.Available, room[i].available(&s))
	}
	return buf, nil
}

// readSwap sets the fields of swap, as readFree those of memory.
func (m *MemoryFiles) readSwap(u *MemoryUsage, v1 v1Limits, buf []byte) (_ []byte, err error) {
	tightest := uint64(NoLimit)
	for i := len(m.above); i >= 0; i-- {
		l := m.level(i)
		if l.swapUsage == nil {
			continue
		}
		u.SwapAccounted = true
		limit := v1.memsw
		if l.swapMax != nil && (m.v2 || limit != NoLimit) {
			limit = NoLimit
			if buf, err = readMin(l.swapMax, &limit, buf); err != nil {
				return buf, err
			}
		}
		if i > 0 && (limit >= tightest || !m.v2 && limit < v1.memsw) {
			continue
		}
		var usage uint64
		if buf, err = m.readSwapUsage(l, &usage, buf); err != nil {
			return buf, err
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
		return buf, nil
	}
	if v1.memsw != NoLimit && v1.memory != NoLimit {
		u.SwapLimit = max(v1.memsw, v1.memory)
	}
	if m.swappiness == nil {
		return buf, nil
	}
	var swappiness uint64
	if buf, err = readUint(m.swappiness, &swappiness, buf); err == nil && swappiness == 0 {
		u.SwapLimit = u.SwapUsage
	}
	return buf, err
}

func (m *MemoryFiles) readSwapUsage(l *memoryLevel, usage *uint64, buf []byte) ([]byte, error) {
	buf, err := readUint(l.swapUsage, usage, buf)
	if err != nil || m.v2 {
		return buf, err
	}
	var memory uint64
	buf, err = readUint(l.usage, &memory, buf)
	*usage -= min(memory, *usage)
	return buf, err
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
