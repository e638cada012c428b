// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"os"
	"strconv"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/scan"
)

const meminfoNode = 17

func meminfoFile() File {
	return File{
		Path: "proc/meminfo", Node: meminfoNode, Mode: 0o444, Size: SizePage,
		needs:   sourceMemory,
		numbers: func() numbers { return new(meminfo) },
	}
}

// meminfo is what /proc/meminfo shows.
type meminfo struct {
	text   []byte // the host's
	host   hostMemory
	memory memory
	// huge are the sizes of huge pages that the hugetlb controller counts.
	huge []cgroup.HugeUsage
	// mems are the memory nodes of the container, and nodes is what they have in bytes.
	mems  cgroup.CPUs
	nodes uint64
}

func (n *meminfo) reset() {
	n.mems.Clear()
	*n = meminfo{huge: n.huge[:0], mems: n.mems}
}

func (n *meminfo) gather(c *Container) (err error) {
	if c.host, err = c.registry.readHost("proc/meminfo", c.host); err != nil {
		return err
	}
	n.text = c.host
	n.host.parse(n.text)
	if n.host.hugetlb > 0 {
		// Hosts without huge pages, most of them, are spared these reads.
		if n.huge, c.buf, err = c.huge.Read(n.huge, c.buf); err != nil {
			return err
		}
	}
	if n.nodes, c.buf, err = c.nodes.Read(&n.mems, c.buf); err != nil {
		return err
	}
	return n.memory.gather(c, &n.host)
}

// memory is what a container uses and may use.
type memory struct{ cgroup.MemoryUsage }

func (m *memory) gather(c *Container, h *hostMemory) (err error) {
	cfg := &c.registry.cfg
	c.buf, err = c.memory.Read(&m.MemoryUsage, h.total, h.swap, c.buf)
	if c.policy.isSecond(wordSwap, cfg.NoSwap) {
		m.SwapAccounted = false
	}
	if cfg.NoZswap {
		m.Stat.Zswap, m.Stat.Zswapped = 0, 0
	}
	return err
}

// hostMemory is what the view takes from the host's meminfo, in bytes.
type hostMemory struct {
	total, free, available uint64
	swap, commitLimit      uint64
	hugePage, hugetlb      uint64
}

// parse reads the lines of meminfo (meminfo_proc_show, fs/proc/meminfo.c).
// Without a MemTotal line the host sets no bound.
func (h *hostMemory) parse(text []byte) {
	*h = hostMemory{total: cgroup.NoLimit}
	for line := range scan.Lines(text) {
		label, rest, _ := bytes.Cut(line, []byte(":"))
		switch string(label) {
		case "MemTotal":
			h.total = bytesOfLine(rest)
		case "MemFree":
			h.free = bytesOfLine(rest)
		case "MemAvailable":
			h.available = bytesOfLine(rest)
		case "SwapTotal":
			h.swap = bytesOfLine(rest)
		case "CommitLimit":
			h.commitLimit = bytesOfLine(rest)
		case "Hugepagesize":
			h.hugePage = bytesOfLine(rest)
		case "Hugetlb":
			h.hugetlb = bytesOfLine(rest)
		}
	}
}

// bytesOfLine returns the bytes that a line of meminfo has in kB behind its colon.
func bytesOfLine(rest []byte) uint64 {
	f, _ := scan.Field(rest)
	kb, _ := scan.Uint(f)
	return min(kb, cgroup.NoLimit>>10) << 10
}

// commit returns the CommitLimit of a machine with so much memory, swap and huge
// pages, all in bytes, that has the host's settings (vm_commit_limit, mm/util.c):
// vm.overcommit_kbytes if that is set, or else vm.overcommit_ratio percent of the
// memory that is not in huge pages; and the swap. The host's own limit shows which:
// no other ratio gives it, and if none does it is the kilobytes.
func (h *hostMemory) commit(total, swap, hugetlb uint64) uint64 {
	page := uint64(os.Getpagesize())
	limit, pages := sub(h.commitLimit, h.swap)/page, sub(h.total, h.hugetlb)/page
	ratio := uint64(0)
	if pages > 0 {
		ratio = (limit*100 + pages - 1) / pages
	}
	if pages*ratio/100 == limit {
		pages = sub(total, hugetlb) / page
		limit = min(pages, cgroup.NoLimit/page/max(ratio, 1)) * ratio / 100
	}
	return add(limit*page, swap)
}

// memoryLines are the values that the view derives, in bytes. None of them can
// wrap around.
type memoryLines struct {
	stat                   *cgroup.MemoryStat
	total, free, available uint64
	swap, swapFree         uint64
	commitLimit, committed uint64
	directMap              uint64 // how much of it is left for the lines to come
	hugetlb                uint64
	anyHugeLimited         bool // some size of huge pages is
	hugeLimited            bool // the default size is
	// hugePages and hugeFree are numbers of pages of the default size.
	hugePages, hugeFree uint64
}

func (l *memoryLines) derive(v *meminfo) {
	h, m, s := &v.host, &v.memory, &v.memory.Stat
	l.stat = s
	l.total = min(h.total, v.nodes, m.Limit)
	l.free, l.available = m.Free, m.Available
	if l.free == cgroup.NoLimit {
		l.free, l.available = h.free, h.available
	}
	l.free, l.available = min(l.total, l.free), min(l.total, l.available)
	l.directMap = l.total
	l.swap, l.swapFree = m.swap(h.swap)
	l.hugetlb = h.hugetlb
	for i := range v.huge {
		u := &v.huge[i]
		if u.Limit >= u.HostTotal {
			continue
		}
		l.anyHugeLimited = true
		pages := u.Limit / u.PageSize
		l.hugetlb = sub(l.hugetlb, u.HostTotal-pages*u.PageSize)
		if u.PageSize == h.hugePage {
			l.hugeLimited = true
			l.hugePages, l.hugeFree = pages, min(pages, u.Free/u.PageSize)
		}
	}
	l.commitLimit = h.commit(l.total, l.swap, l.hugetlb)
	l.committed = add(s.Anon, s.Shmem, s.KernelStack, s.Pagetables, m.SwapUsage)
}

// swap is the swap that the container sees of host bytes of it, and what is free
// of that, in bytes.
func (m *memory) swap(host uint64) (total, free uint64) {
	if !m.SwapAccounted {
		return 0, 0
	}
	total = min(host, m.SwapLimit)
	return total, min(m.SwapFree, sub(total, m.SwapUsage))
}

// value returns what a line shows: bytes, to be shown in kB, or a plain number.
// It returns false for a line that stays the host's.
func (l *memoryLines) value(label []byte) (n uint64, plain, ok bool) {
	s := l.stat
	switch string(label) {
	case "MemTotal":
		n = l.total
	case "MemFree":
		n = l.free
	case "MemAvailable":
		n = l.available
	case "Cached":
		n = s.File
	case "SwapCached":
		n = s.SwapCached
	case "Active":
		n = add(s.ActiveAnon, s.ActiveFile)
	case "Inactive":
		n = add(s.InactiveAnon, s.InactiveFile)
	case "Active(anon)":
		n = s.ActiveAnon
	case "Inactive(anon)":
		n = s.InactiveAnon
	case "Active(file)":
		n = s.ActiveFile
	case "Inactive(file)":
		n = s.InactiveFile
	case "Unevictable":
		n = s.Unevictable
	case "SwapTotal":
		n = l.swap
	case "SwapFree":
		n = l.swapFree
	case "Zswap":
		n = s.Zswap
	case "Zswapped":
		n = s.Zswapped
	case "Dirty":
		n = s.FileDirty
	case "Writeback":
		n = s.FileWriteback
	case "Mapped":
		n = s.FileMapped
	case "Shmem":
		n = s.Shmem
	case "AnonPages":
		n = s.Anon
	case "AnonHugePages":
		n = s.AnonTHP
	case "ShmemHugePages":
		n = s.ShmemTHP
	case "FileHugePages":
		n = s.FileTHP
	case "KReclaimable", "SReclaimable":
		n = s.SlabReclaimable
	case "SUnreclaim":
		n = s.SlabUnreclaimable
	case "Slab":
		n = add(s.SlabReclaimable, s.SlabUnreclaimable)
	case "KernelStack":
		n = s.KernelStack
	case "PageTables":
		n = s.Pagetables
	case "SecPageTables":
		n = s.SecPagetables
	case "Percpu":
		n = s.Percpu
	case "VmallocUsed":
		n = s.Vmalloc
	case "CommitLimit":
		n = l.commitLimit
	case "Committed_AS":
		n = l.committed
	case "Buffers", "Mlocked", "ShmemPmdMapped", "FilePmdMapped",
		"NFS_Unstable", "Bounce", "WritebackTmp":
		// no control group counts these
	case "HugePages_Total":
		return l.hugePages, true, l.hugeLimited
	case "HugePages_Free":
		return l.hugeFree, true, l.hugeLimited
	case "HugePages_Rsvd", "HugePages_Surp":
		return 0, true, l.hugeLimited
	case "Hugetlb":
		return l.hugetlb, false, l.anyHugeLimited
	default:
		return 0, false, false
	}
	return n, false, true
}

// direct returns what a DirectMap line shows of the host's bytes. The kernel has
// the smallest pages first.
func (l *memoryLines) direct(host uint64) uint64 {
	n := min(host, l.directMap)
	l.directMap -= n
	return n
}

// append writes /proc/meminfo: the host's lines in the host's order and
// columns, with the container's numbers. Lines it does not know stay as they
// are.
func (n *meminfo) append(dst []byte) []byte {
	var l memoryLines
	l.derive(n)
	for line := range scan.Lines(n.text) {
		label, rest, isNumber := bytes.Cut(line, []byte(":"))
		v, plain, ok := l.value(label)
		if bytes.HasPrefix(label, []byte("DirectMap")) {
			v, ok = l.direct(bytesOfLine(rest)), true
		}
		if ok && isNumber {
			if !plain {
				v >>= 10
			}
			dst = appendReplaced(dst, line, len(label)+1, v)
		} else {
			dst = append(dst, line...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// column is the width that the kernel pads a number of meminfo to
// (show_val_kb, fs/proc/meminfo.c).
const column = 8

// appendReplaced writes line with n in the place of the number behind its label,
// which ends at byte at, in the kernel's columns: n ends where the host's number
// does, unless one of them is wider than the column.
func appendReplaced(dst, line []byte, at int, n uint64) []byte {
	start := at
	for start < len(line) && line[start] == ' ' {
		start++
	}
	_, digits := scan.Uint(line[start:])
	end := start + digits
	var buf [20]byte
	num := strconv.AppendUint(buf[:0], n, 10)
	// what stands before the column belongs to the label
	label := max(end-max(digits, column), at)
	dst = append(dst, line[:label]...)
	const blanks = "        "
	dst = append(dst, blanks[:max(min(end-label, column)-len(num), 0)]...)
	dst = append(dst, num...)
	return append(dst, line[end:]...)
}

// sub is a - b, never below 0.
func sub(a, b uint64) uint64 { return a - min(a, b) }

// add is the sum, at most the largest uint64.
func add(a uint64, more ...uint64) uint64 {
	for _, b := range more {
		if a+b < a {
			return cgroup.NoLimit
		}
		a += b
	}
	return a
}
