package procvirt

import (
	"slices"
	"strconv"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
)

func diskstatsFile() File {
	return File{
		Path: "proc/diskstats", Node: 22, Mode: 0o444, Size: SizeContent,
		host:    host.Source{Records: true, Optional: true}, // CONFIG_BLOCK
		needs:   sourceIO,
		numbers: func() numbers { return new(diskstats) },
	}
}

// diskstats is what /proc/diskstats shows.
type diskstats struct {
	host []byte // the host's text
	// disks are the devices that the container has used, by ascending number.
	disks []cgroup.DiskIO
}

func (n *diskstats) reset() { *n = diskstats{disks: n.disks[:0]} }

func (n *diskstats) gather(c *Container) (err error) {
	if c.host, err = c.registry.readHost("proc/diskstats", c.host); err != nil {
		return err
	}
	n.host = c.host
	n.disks, c.buf, err = c.io.Read(n.disks, c.buf)
	return err
}

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

// append writes /proc/diskstats (diskstats_show, block/genhd.c): the
// host's lines of the devices that the container has used, with its numbers. It
// has as many fields as the host's: 11 before Linux 4.18, 15 before 5.5, 17 since.
func (n *diskstats) append(dst []byte) []byte {
	for text := n.host; len(text) > 0; {
		var line []byte
		line, text = scan.Line(text)
		major, rest := scan.Field(line)
		minor, rest := scan.Field(rest)
		name, rest := scan.Field(rest)
		d := n.disk(major, minor)
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

// disk is what the container did to a device, nil if that is nothing.
func (n *diskstats) disk(major, minor []byte) *cgroup.DiskIO {
	ma, k := scan.Uint(major)
	mi, m := scan.Uint(minor)
	if k == 0 || k < len(major) || m == 0 || m < len(minor) || max(ma, mi) > 1<<32-1 {
		return nil
	}
	want := cgroup.DiskIO{Major: uint32(ma), Minor: uint32(mi)}
	i, ok := slices.BinarySearchFunc(n.disks, want, func(d, w cgroup.DiskIO) int { return d.Compare(&w) })
	if !ok || n.disks[i].None() {
		return nil
	}
	return &n.disks[i]
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
