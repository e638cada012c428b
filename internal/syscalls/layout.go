// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"encoding/binary"
	"math"
	"os"

	"vprocfs/procvirt"
)

// maxSysinfo is the size of the larger struct sysinfo.
const maxSysinfo = 112

// appendSysinfo64 appends struct sysinfo (include/uapi/linux/sysinfo.h) with longs of 64
// bits: amounts of memory are in bytes, and mem_unit is 1.
func appendSysinfo64(b []byte, s *procvirt.Sysinfo) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, s.Uptime)
	for _, n := range [...]uint64{
		s.Loads[0], s.Loads[1], s.Loads[2], s.TotalRAM, s.FreeRAM, s.SharedRAM, s.BufferRAM, s.TotalSwap, s.FreeSwap,
	} {
		b = le.AppendUint64(b, n)
	}
	b = le.AppendUint16(b, threads(s))
	b = append(b, 0, 0, 0, 0, 0, 0) // pad, and the compiler's
	b = le.AppendUint64(b, 0)       // totalhigh
	b = le.AppendUint64(b, 0)       // freehigh
	b = le.AppendUint32(b, 1)
	return append(b, 0, 0, 0, 0) // the compiler's
}

// appendSysinfo32 appends struct sysinfo with longs of 32 bits. If an amount of memory does
// not fit, all are in pages and mem_unit is the size of one (compat_sysinfo, kernel/sys.c).
func appendSysinfo32(b []byte, s *procvirt.Sysinfo) []byte {
	le := binary.LittleEndian
	unit := uint64(1)
	if s.TotalRAM > math.MaxUint32 || s.TotalSwap > math.MaxUint32 {
		unit = uint64(os.Getpagesize())
	}
	b = le.AppendUint32(b, fit(s.Uptime))
	for _, n := range s.Loads {
		b = le.AppendUint32(b, fit(n))
	}
	for _, n := range [...]uint64{s.TotalRAM, s.FreeRAM, s.SharedRAM, s.BufferRAM, s.TotalSwap, s.FreeSwap} {
		b = le.AppendUint32(b, fit(n/unit))
	}
	b = le.AppendUint16(b, threads(s))
	b = append(b, 0, 0)       // pad
	b = le.AppendUint32(b, 0) // totalhigh
	b = le.AppendUint32(b, 0) // freehigh
	b = le.AppendUint32(b, uint32(unit))
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0) // _f
}

// threads is the number of threads as far as the field goes.
func threads(s *procvirt.Sysinfo) uint16 { return uint16(min(s.Threads, math.MaxUint16)) }

// fit is n, or the largest number of 32 bits: no value wraps around to a small one.
func fit(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }
