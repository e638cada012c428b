package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// NoLimit is the limit of a group that has none.
const NoLimit = math.MaxUint64

// v1NoLimit is what v1 shows for no limit: the largest page counter,
// LONG_MAX / PAGE_SIZE pages (page_counter.h). Pages may be up to 64 KiB, so
// everything from here on is no limit.
const v1NoLimit = math.MaxInt64 &^ 0xffff

// ErrNotEnabled says that neither the group nor any ancestor has the
// controller's files.
var ErrNotEnabled = errors.New("controller is not enabled in any ancestor")

// MemoryUsage is what the memory controller says of a group. All values are in
// bytes.
type MemoryUsage struct {
	// Limit is the smallest memory limit of the group and its ancestors.
	Limit uint64
	Usage uint64
	// SwapAccounted says that the kernel counts the group's swap at all.
	SwapAccounted bool
	// SwapLimit is the most swap that the group could fill: the smallest limit
	// of it and its ancestors. On v1 that is the limit of memory and swap
	// together, since the kernel may swap out all of it; with a swappiness of 0
	// it swaps nothing more, and the limit is what is swapped.
	SwapLimit uint64
	SwapUsage uint64
	Stat      MemoryStat
}

// MemoryStat holds keys of memory.stat under their v2 names (cgroup-v2.rst), in
// bytes. A key that the kernel does not have is 0. On v1 the total_ keys fill
// them, so that descendants count as they do on v2.
type MemoryStat struct {
	Anon, File, Shmem                      uint64
	KernelStack, Pagetables, SecPagetables uint64
	Percpu, Vmalloc                        uint64
	Zswap, Zswapped                        uint64
	FileMapped, FileDirty, FileWriteback   uint64
	SwapCached                             uint64
	AnonTHP, FileTHP, ShmemTHP             uint64
	InactiveAnon, ActiveAnon               uint64
	InactiveFile, ActiveFile, Unevictable  uint64
	SlabReclaimable, SlabUnreclaimable     uint64
}

// MemoryFiles holds the memory controller's files of a container open. Read is
// safe for concurrent use, beside Close it is not.
type MemoryFiles struct {
	v2            bool
	limits, swaps []*held.File // v2: of each level that has them
	usage, stat   *held.File
	swapUsage     *held.File
	swappiness    *held.File
	// Nearest is the directory whose usage and statistics are read.
	Nearest string
	// Incomplete says that the controller is enabled only above the container,
	// so that the files to read change when it is enabled there.
	Incomplete bool
}

// OpenMemory opens what Read needs at p. The limits are those of all levels;
// usage and statistics are of the nearest group that has the controller.
func OpenMemory(o *held.Opener, p Place) (*MemoryFiles, error) {
	m := &MemoryFiles{v2: p.V2}
	err := m.open(o, p)
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *MemoryFiles) open(o *held.Opener, p Place) (err error) {
	name := "memory.usage_in_bytes"
	if p.V2 {
		name = "memory.current"
	}
	if m.usage, m.Nearest, err = openNearest(o, p.Dirs, name); err != nil {
		return err
	}
	m.Incomplete = m.Nearest != p.Dirs[0]
	if m.stat, err = o.Open(m.Nearest + "/memory.stat"); err != nil {
		return err
	}
	if !p.V2 {
		// The limits through the hierarchy stand in memory.stat.
		if m.swapUsage, err = openOptional(o, m.Nearest+"/memory.memsw.usage_in_bytes"); err != nil {
			return err
		}
		m.swappiness, err = openOptional(o, m.Nearest+"/memory.swappiness")
		return err
	}
	if m.limits, err = openLevels(o, p.Dirs, "memory.max"); err != nil {
		return err
	}
	if m.swapUsage, err = openOptional(o, m.Nearest+"/memory.swap.current"); err != nil {
		return err
	}
	m.swaps, err = openLevels(o, p.Dirs, "memory.swap.max")
	return err
}

// Close closes the files.
func (m *MemoryFiles) Close() {
	if m == nil {
		return
	}
	for _, f := range m.limits {
		f.Close()
	}
	for _, f := range m.swaps {
		f.Close()
	}
	m.usage.Close()
	m.stat.Close()
	m.swapUsage.Close()
	m.swappiness.Close()
}

// Read fills u. It returns the buffer it worked in, grown where it had to be.
func (m *MemoryFiles) Read(u *MemoryUsage, buf []byte) ([]byte, error) {
	*u = MemoryUsage{Limit: NoLimit, SwapLimit: NoLimit}
	buf, err := readUint(m.usage, &u.Usage, buf)
	if err != nil {
		return buf, err
	}
	b, err := m.stat.Read(buf)
	if err != nil {
		return buf, err
	}
	buf = b
	if m.v2 {
		u.Stat.parse(b)
		return m.readV2(u, buf)
	}
	u.Limit, u.SwapLimit = u.Stat.parseV1(b)
	return m.readV1(u, buf)
}

func (m *MemoryFiles) readV2(u *MemoryUsage, buf []byte) ([]byte, error) {
	buf, err := readMin(m.limits, &u.Limit, buf)
	if err != nil || m.swapUsage == nil {
		return buf, err
	}
	u.SwapAccounted = true
	if buf, err = readMin(m.swaps, &u.SwapLimit, buf); err != nil {
		return buf, err
	}
	return readUint(m.swapUsage, &u.SwapUsage, buf)
}

func (m *MemoryFiles) readV1(u *MemoryUsage, buf []byte) ([]byte, error) {
	if m.swapUsage == nil {
		return buf, nil
	}
	u.SwapAccounted = true
	var both, swappiness uint64
	buf, err := readUint(m.swapUsage, &both, buf)
	if err != nil {
		return buf, err
	}
	if both > u.Usage {
		u.SwapUsage = both - u.Usage
	}
	if u.SwapLimit != NoLimit && u.Limit != NoLimit {
		u.SwapLimit = max(u.SwapLimit, u.Limit)
	}
	if m.swappiness == nil {
		return buf, nil
	}
	if buf, err = readUint(m.swappiness, &swappiness, buf); err == nil && swappiness == 0 {
		u.SwapLimit = u.SwapUsage
	}
	return buf, err
}

func (s *MemoryStat) parse(text []byte) {
	for len(text) > 0 {
		var line []byte
		line, text = scan.Line(text)
		key, v, ok := scan.KeyValue(line)
		if !ok {
			continue
		}
		switch string(key) {
		case "anon":
			s.Anon = v
		case "file":
			s.File = v
		case "shmem":
			s.Shmem = v
		case "kernel_stack":
			s.KernelStack = v
		case "pagetables":
			s.Pagetables = v
		case "sec_pagetables":
			s.SecPagetables = v
		case "percpu":
			s.Percpu = v
		case "vmalloc":
			s.Vmalloc = v
		case "zswap":
			s.Zswap = v
		case "zswapped":
			s.Zswapped = v
		case "file_mapped":
			s.FileMapped = v
		case "file_dirty":
			s.FileDirty = v
		case "file_writeback":
			s.FileWriteback = v
		case "swapcached":
			s.SwapCached = v
		case "anon_thp":
			s.AnonTHP = v
		case "file_thp":
			s.FileTHP = v
		case "shmem_thp":
			s.ShmemTHP = v
		case "inactive_anon":
			s.InactiveAnon = v
		case "active_anon":
			s.ActiveAnon = v
		case "inactive_file":
			s.InactiveFile = v
		case "active_file":
			s.ActiveFile = v
		case "unevictable":
			s.Unevictable = v
		case "slab_reclaimable":
			s.SlabReclaimable = v
		case "slab_unreclaimable":
			s.SlabUnreclaimable = v
		}
	}
}

// parseV1 reads v1's memory.stat and returns the limits through the hierarchy
// that stand in it, of memory and of memory and swap together
// (memcg1_stat_format, mm/memcontrol-v1.c).
func (s *MemoryStat) parseV1(text []byte) (limit, memsw uint64) {
	limit, memsw = NoLimit, NoLimit
	for len(text) > 0 {
		var line []byte
		line, text = scan.Line(text)
		key, v, ok := scan.KeyValue(line)
		if !ok {
			continue
		}
		switch string(key) {
		case "hierarchical_memory_limit":
			limit = v1Limit(v)
		case "hierarchical_memsw_limit":
			memsw = v1Limit(v)
		case "total_cache":
			s.File = v
		case "total_rss":
			s.Anon = v
		case "total_rss_huge":
			s.AnonTHP = v
		case "total_shmem":
			s.Shmem = v
		case "total_mapped_file":
			s.FileMapped = v
		case "total_dirty":
			s.FileDirty = v
		case "total_writeback":
			s.FileWriteback = v
		case "total_swapcached":
			s.SwapCached = v
		case "total_inactive_anon":
			s.InactiveAnon = v
		case "total_active_anon":
			s.ActiveAnon = v
		case "total_inactive_file":
			s.InactiveFile = v
		case "total_active_file":
			s.ActiveFile = v
		case "total_unevictable":
			s.Unevictable = v
		}
	}
	return limit, memsw
}

func v1Limit(v uint64) uint64 {
	if v >= v1NoLimit {
		return NoLimit
	}
	return v
}

// openNearest opens file in the first of dirs that has it.
func openNearest(o *held.Opener, dirs []string, file string) (*held.File, string, error) {
	for i, d := range dirs {
		f, err := openOptionalAt(o, i, d+"/"+file)
		if f != nil || err != nil {
			return f, d, err
		}
	}
	if len(dirs) > 0 {
		if !isDir(dirs[0]) {
			return nil, "", fmt.Errorf("%s: %w", dirs[0], ErrRemoved)
		}
		return nil, "", fmt.Errorf("%s/%s: %w", dirs[0], file, ErrNotEnabled)
	}
	return nil, "", fmt.Errorf("%s: %w", file, ErrNotEnabled)
}

// openLevels opens file in every one of dirs that has it.
func openLevels(o *held.Opener, dirs []string, file string) (fs []*held.File, err error) {
	for i, d := range dirs {
		f, err := openOptionalAt(o, i, d+"/"+file)
		if err != nil {
			for _, f := range fs {
				f.Close()
			}
			return nil, err
		}
		if f != nil {
			fs = append(fs, f)
		}
	}
	return fs, nil
}

// openOptional opens path, and returns nil without an error where there is no
// such file: the controller is not enabled there, or the kernel is older.
func openOptional(o *held.Opener, path string) (*held.File, error) {
	return openOptionalAt(o, 0, path)
}

// openOptionalAt is openOptional with openAt.
func openOptionalAt(o *held.Opener, level int, path string) (*held.File, error) {
	f, err := openAt(o, level, path)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return f, err
}

// openAt opens a file of the group that is so many levels above the container's
// own. Other containers are in that group too, and share the file.
func openAt(o *held.Opener, level int, path string) (*held.File, error) {
	if level == 0 {
		return o.Open(path)
	}
	return o.OpenShared(path)
}

// readUint reads a file of one number.
func readUint(f *held.File, v *uint64, buf []byte) ([]byte, error) {
	b, err := f.Read(buf)
	if err != nil {
		return buf, err
	}
	n := 0
	if *v, n = scan.Uint(b); n == 0 {
		return b, fmt.Errorf("%s: not a number: %q", f.Path(), b[:min(len(b), 40)])
	}
	return b, nil
}

// readMin lowers v to the smallest limit in the files. "max" is none.
func readMin(fs []*held.File, v *uint64, buf []byte) ([]byte, error) {
	for _, f := range fs {
		b, err := f.Read(buf)
		if err != nil {
			return buf, err
		}
		buf = b
		if bytes.HasPrefix(b, []byte("max")) {
			continue
		}
		limit, n := scan.Uint(b)
		if n == 0 {
			return buf, fmt.Errorf("%s: neither a number nor max: %q", f.Path(), b[:min(len(b), 40)])
		}
		*v = min(*v, limit)
	}
	return buf, nil
}
