// SPDX-License-Identifier: Apache-2.0

package cgroup

import "vprocfs/procvirt/internal/scan"

// MemoryStat holds keys of memory.stat under their v2 names (cgroup-v2.rst), in
// bytes. A key that the kernel does not have is 0. On v1 they are the total_ keys, so
// that descendants count as they do on v2.
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
	Hugetlb                                uint64
}

// reclaimable is what a group can free without swap.
func (s *MemoryStat) reclaimable() uint64 {
	return saturated(saturated(s.ActiveFile, s.InactiveFile), s.SlabReclaimable)
}

func (s *MemoryStat) parse(text []byte) {
	for key, v := range scan.KeyValues(text) {
		s.set(key, v)
	}
}

// set sets what v2 calls key.
func (s *MemoryStat) set(key []byte, v uint64) {
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
	case "hugetlb":
		s.Hugetlb = v
	}
}

// parseV1 reads v1's memory.stat and returns the limits that it has
// (memcg1_stat_format, mm/memcontrol-v1.c).
func (s *MemoryStat) parseV1(text []byte) v1Limits {
	limits := v1Limits{NoLimit, NoLimit}
	for key, v := range scan.KeyValues(text) {
		switch string(key) {
		case "hierarchical_memory_limit":
			limits.memory = v1Limit(v)
		case "hierarchical_memsw_limit":
			limits.memsw = v1Limit(v)
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
	return limits
}

func v1Limit(v uint64) uint64 {
	if v >= v1NoLimit {
		return NoLimit
	}
	return v
}
