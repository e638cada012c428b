package procvirt

import (
	"slices"
	"strconv"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/scan"
)

// sectorSize is the unit of /proc/diskstats in bytes, whatever the device's own
// is (Documentation/admin-guide/iostats.rst).
const sectorSize = 512

// diskField is the number of a field behind the name, as iostats.rst counts, less
// one.
const (
	diskReads = iota
	_         // merged
	diskReadSectors
	_ // milliseconds
	diskWrites
	_
	diskWriteSectors
	_
	_ // in flight
	_ // milliseconds in all
	_ // the same, weighted
	diskDiscards
	_
	diskDiscardSectors
)

// appendDiskstats makes /proc/diskstats (diskstats_show, block/genhd.c): the
// host's lines of the devices that the container has used, with its numbers. It
// has as many fields as the host's: 11 before Linux 4.18, 15 before 5.5, 17 since.
func appendDiskstats(dst []byte, v *View) []byte {
	for text := v.Host; len(text) > 0; {
		var line []byte
		line, text = scan.Line(text)
		major, rest := scan.Field(line)
		minor, rest := scan.Field(rest)
		name, rest := scan.Field(rest)
		d := v.disk(major, minor)
		if d == nil || len(name) == 0 {
			continue
		}
		dst = append(dst, line[:len(line)-len(rest)]...)
		for i := 0; ; i++ {
			var f []byte
			if f, rest = scan.Field(rest); len(f) == 0 {
				break
			}
			dst = append(dst, ' ')
			dst = strconv.AppendUint(dst, diskValue(d, i), 10)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// disk is what the container did to a device, nil where that is nothing.
func (v *View) disk(major, minor []byte) *cgroup.DiskIO {
	ma, n := scan.Uint(major)
	mi, m := scan.Uint(minor)
	if n == 0 || n < len(major) || m == 0 || m < len(minor) || max(ma, mi) > 1<<32-1 {
		return nil
	}
	want := cgroup.DiskIO{Major: uint32(ma), Minor: uint32(mi)}
	i, ok := slices.BinarySearchFunc(v.Disks, want, func(d, w cgroup.DiskIO) int { return d.Compare(&w) })
	if !ok || v.Disks[i].None() {
		return nil
	}
	return &v.Disks[i]
}

// diskValue is a field's value: 0 for what no control group counts.
func diskValue(d *cgroup.DiskIO, field int) uint64 {
	switch field {
	case diskReads:
		return d.Reads
	case diskReadSectors:
		return d.ReadBytes / sectorSize
	case diskWrites:
		return d.Writes
	case diskWriteSectors:
		return d.WriteBytes / sectorSize
	case diskDiscards:
		return d.Discards
	case diskDiscardSectors:
		return d.DiscardBytes / sectorSize
	}
	return 0
}
