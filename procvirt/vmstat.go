// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
)

func vmstatFile() File {
	return File{
		Path: "proc/vmstat", Node: 25, Mode: 0o444, Size: SizeContent,
		fromHost: true,
		host:     host.Source{Records: true, Optional: true}, // CONFIG_VM_EVENT_COUNTERS
		needs:    sourceMemory | sourceCounters,
		numbers:  func() numbers { return new(vmstat) },
	}
}

// vmstat is what /proc/vmstat shows.
type vmstat struct {
	text     []byte // the host's
	memory   meminfo
	free     uint64 // meminfo's MemFree, in bytes
	stat     cgroup.MemoryStat
	counters cgroup.Counters
	disks    []cgroup.DiskIO
	// pageSize and hugePageSize, that of transparent huge pages, are in bytes.
	pageSize, hugePageSize uint64
}

func (n *vmstat) reset() {
	n.memory.reset()
	*n = vmstat{memory: n.memory, disks: n.disks[:0]}
}

func (n *vmstat) gather(c *Container) (err error) {
	if n.free, err = n.memory.gatherFree(c); err != nil {
		return err
	}
	if c.buf, err = c.memory.ReadStat(&n.stat, &n.counters, c.buf); err != nil {
		return err
	}
	if c.buf, err = c.oom.Read(&n.counters, c.buf); err != nil {
		return err
	}
	if err := n.gatherIO(c); err != nil {
		return err
	}
	c.counters.show(&n.counters)
	n.pageSize, n.hugePageSize = uint64(os.Getpagesize()), c.registry.hugePageSize
	if c.host, err = c.registry.readHost("proc/vmstat", c.host); err != nil {
		return err
	}
	n.text = c.host
	return nil
}

// gatherFree returns MemFree, in bytes: the host's if the container's group does not have
// the memory controller, and no ancestor has a limit.
func (n *meminfo) gatherFree(c *Container) (uint64, error) {
	err := n.gather(c)
	if errors.Is(err, cgroup.ErrNotEnabled) {
		return n.host.free, nil
	}
	if err != nil {
		return 0, err
	}
	var l memoryLines
	l.derive(n)
	return l.free, nil
}

// gatherIO adds up the container's I/O to all devices but those that hand it on to others,
// where it counts too. A container without an io controller has none.
func (n *vmstat) gatherIO(c *Container) (err error) {
	if c.io == nil {
		return nil
	}
	n.disks, c.buf, err = c.io.Read(n.disks, c.buf)
	if errors.Is(err, cgroup.ErrNotEnabled) {
		return nil
	}
	for i := range n.disks {
		d := &n.disks[i]
		if !c.registry.stacked[d.Major] {
			n.counters[cgroup.PageIn] = add(n.counters[cgroup.PageIn], d.ReadBytes>>10)
			n.counters[cgroup.PageOut] = add(n.counters[cgroup.PageOut], d.WriteBytes>>10)
		}
	}
	return err
}

// openCounters opens what vmstat shows and meminfo does not.
func (s *state) openCounters() error {
	p, err := s.place(cgroup.Memory)
	if err != nil {
		return err
	}
	oom, err := cgroup.OpenOOM(&s.space.owner.opener, p)
	if err != nil {
		return err
	}
	if s.io == nil {
		if err := s.openIO(); err != nil && (isOurs(err) || reasonOf(err) == RemovedCgroup) {
			oom.Close()
			return err
		}
	}
	s.oom = oom
	s.opened = append(s.opened, oom)
	s.counters.countFrom(oom.Inode)
	return nil
}

// transparentHugePageSize returns the size of transparent huge pages in bytes, 0 if the
// kernel has none.
func transparentHugePageSize(root string) uint64 {
	text, err := os.ReadFile(filepath.Join(root, "sys/kernel/mm/transparent_hugepage/hpage_pmd_size"))
	if err != nil {
		return 0
	}
	n, _ := scan.Uint(text)
	return n
}

// append writes /proc/vmstat (vmstat_show, mm/vmstat.c): the host's names in the host's
// order. What no control group counts is 0.
func (n *vmstat) append(dst []byte) []byte {
	for line := range scan.Lines(n.text) {
		name, _ := scan.Field(line)
		if len(name) == 0 {
			continue
		}
		dst = append(dst, name...)
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, n.value(name), 10)
		dst = append(dst, '\n')
	}
	return dst
}

// value returns what is shown under a name: pages, but for counters of something else.
func (n *vmstat) value(name []byte) uint64 {
	if c, ok := cgroup.CounterNamed(name); ok {
		return n.counters[c]
	}
	if bytes, ok := n.hugeBytes(name); ok {
		// vmstat_item_print_in_thp, include/linux/mmzone.h
		return bytes / max(n.hugePageSize, 1)
	}
	if string(name) == "nr_kernel_stack" {
		return n.stat.KernelStack >> 10 // KiB
	}
	return n.bytes(name) / n.pageSize
}

// hugeBytes returns the bytes behind a line that counts transparent huge pages.
func (n *vmstat) hugeBytes(name []byte) (bytes uint64, ok bool) {
	if n.hugePageSize == 0 {
		return 0, false
	}
	switch string(name) {
	case "nr_anon_transparent_hugepages":
		return n.stat.AnonTHP, true
	case "nr_shmem_hugepages":
		return n.stat.ShmemTHP, true
	case "nr_file_hugepages":
		return n.stat.FileTHP, true
	}
	return 0, false
}

// bytes returns the bytes behind a line that counts pages.
func (n *vmstat) bytes(name []byte) uint64 {
	s := &n.stat
	switch string(name) {
	case "nr_free_pages":
		return n.free
	case "nr_inactive_anon", "nr_zone_inactive_anon":
		return s.InactiveAnon
	case "nr_active_anon", "nr_zone_active_anon":
		return s.ActiveAnon
	case "nr_inactive_file", "nr_zone_inactive_file":
		return s.InactiveFile
	case "nr_active_file", "nr_zone_active_file":
		return s.ActiveFile
	case "nr_unevictable", "nr_zone_unevictable":
		return s.Unevictable
	case "nr_zone_write_pending":
		return add(s.FileDirty, s.FileWriteback)
	case "nr_slab_reclaimable":
		return s.SlabReclaimable
	case "nr_slab_unreclaimable":
		return s.SlabUnreclaimable
	case "nr_anon_pages":
		return s.Anon
	case "nr_mapped":
		return s.FileMapped
	case "nr_file_pages":
		return s.File
	case "nr_dirty":
		return s.FileDirty
	case "nr_writeback":
		return s.FileWriteback
	case "nr_shmem":
		return s.Shmem
	case "nr_page_table_pages":
		return s.Pagetables
	case "nr_sec_page_table_pages":
		return s.SecPagetables
	case "nr_vmalloc":
		return s.Vmalloc
	case "nr_swapcached":
		return s.SwapCached
	case "nr_hugetlb":
		return s.Hugetlb
	}
	return 0
}
