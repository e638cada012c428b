// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"os"
	"strconv"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// NUMAFiles keeps open the files that report which memory nodes a container may use, and
// what it uses of each. Its methods but Close are safe for concurrent use.
type NUMAFiles struct {
	files
	mems, stat *held.File
	v2         bool // of stat
}

// OpenNUMA opens what the methods need at the places of the cpuset and of the memory
// controller.
func OpenNUMA(o *held.Opener, cpuset, memory Place) (*NUMAFiles, error) {
	f := &NUMAFiles{files: files{opener: o}, v2: memory.V2}
	if len(cpuset.Dirs) > 0 {
		f.mems, _ = f.openSet(cpuset, "/cpuset.mems.effective", "/cpuset.effective_mems")
	}
	f.stat = f.own(memory.Dirs, "memory.numa_stat")
	return opened(f, &f.files)
}

// Restrict removes the nodes that are not in the container's cpuset from set, if a cpuset
// bounds them. It works in mems and in buf, which it returns, grown where it had to be.
func (f *NUMAFiles) Restrict(set, mems *CPUs, buf []byte) ([]byte, error) {
	if f.mems == nil {
		return buf, nil
	}
	r := reader{buf: buf}
	if r.set(f.mems, mems); r.err == nil && mems.Count() > 0 {
		set.Intersect(mems)
	}
	return r.buf, r.err
}

// Usage returns the text of memory.numa_stat, for NodeStat; empty if the group does not have
// it. It is in the buffer that is returned too.
func (f *NUMAFiles) Usage(buf []byte) (text, _ []byte, err error) {
	if f.stat == nil {
		return nil, buf, nil
	}
	r := reader{buf: buf}
	text = r.text(f.stat)
	return text, r.buf, r.err
}

// NodeStat sets s to what text, that of memory.numa_stat, says of a node. v1 counts pages of
// three kinds only (memcg_numa_stat_show, mm/memcontrol-v1.c).
func (f *NUMAFiles) NodeStat(s *MemoryStat, text []byte, node int) {
	*s = MemoryStat{}
	parseNUMAStat(s, text, node, f.v2)
}

func parseNUMAStat(s *MemoryStat, text []byte, node int, v2 bool) {
	var room [24]byte
	column := append(strconv.AppendInt(append(room[:0], 'N'), int64(node), 10), '=')
	for line := range scan.Lines(text) {
		key, rest := scan.Field(line)
		unit := uint64(1)
		if !v2 {
			var ok bool
			if key, ok = bytes.CutPrefix(key, []byte("hierarchical_")); !ok {
				continue
			}
			key, _, _ = bytes.Cut(key, []byte("="))
			unit = uint64(os.Getpagesize())
		}
		for {
			var f []byte
			if f, rest = scan.Field(rest); len(f) == 0 {
				break
			}
			if value, ok := bytes.CutPrefix(f, column); ok {
				v, _ := scan.Uint(value)
				s.set(key, min(v, NoLimit/unit)*unit)
			}
		}
	}
}

// Used is the memory that the group uses, as far as MemoryStat tells.
func (s *MemoryStat) Used() (sum uint64) {
	for _, n := range [...]uint64{s.Anon, s.File, s.SlabReclaimable, s.SlabUnreclaimable, s.KernelStack, s.Pagetables, s.SecPagetables} {
		sum = saturated(sum, n)
	}
	return sum
}
