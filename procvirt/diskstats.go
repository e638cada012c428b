// SPDX-License-Identifier: Apache-2.0

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
	n.disks, c.buf, err = c.io.Read(n.disks, c.buf)
	n.disks = slices.DeleteFunc(n.disks, func(d cgroup.DiskIO) bool { return d.None() })
	if err != nil || len(n.disks) == 0 {
		return err // or no line of the host's is shown
	}
	c.host, err = c.registry.readHost("proc/diskstats", c.host)
	n.host = c.host
	return err
}

// sectorSize is the unit of /proc/diskstats in bytes, whatever the device's own
// is (Documentation/admin-guide/iostats.rst).
const sectorSize = 512

// append writes /proc/diskstats (diskstats_show, block/genhd.c): the
// host's lines of the devices that the container has used, with its numbers. It
// has as many fields as the host's: 11 before Linux 4.18, 15 before 5.5, 17 since.
func (n *diskstats) append(dst []byte) []byte {
	for line := range scan.Lines(n.host) {
		major, rest := scan.Field(line)
		minor, rest := scan.Field(rest)
		name, rest := scan.Field(rest)
		d := n.disk(major, minor)
		if d == nil || len(name) == 0 {
			continue
		}
		// As iostats.rst numbers the fields, less one.
		values := [...]uint64{
			0: d.Reads, 2: d.ReadBytes / sectorSize,
			4: d.Writes, 6: d.WriteBytes / sectorSize,
			11: d.Discards, 13: d.DiscardBytes / sectorSize,
		}
		dst = append(dst, line[:len(line)-len(rest)]...)
		f, rest := scan.Field(rest)
		for i := 0; len(f) > 0; i++ {
			value := uint64(0)
			if i < len(values) {
				value = values[i]
			}
			dst = strconv.AppendUint(append(dst, ' '), value, 10)
			f, rest = scan.Field(rest)
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
	if !ok {
		return nil
	}
	return &n.disks[i]
}
