// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"cmp"
	"math"
	"slices"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// DiskIO is what a group and its descendants have done to one device since the
// group was made.
type DiskIO struct {
	// Major and Minor are the number of the whole disk: no group counts by
	// partition.
	Major, Minor uint32
	// Reads, Writes and Discards are in requests, the others in bytes.
	Reads, Writes, Discards             uint64
	ReadBytes, WriteBytes, DiscardBytes uint64
}

// None reports whether nothing was done.
func (d *DiskIO) None() bool {
	return d.Reads|d.Writes|d.Discards|d.ReadBytes|d.WriteBytes|d.DiscardBytes == 0
}

// Compare orders by the device's number.
func (d *DiskIO) Compare(e *DiskIO) int {
	return cmp.Or(cmp.Compare(d.Major, e.Major), cmp.Compare(d.Minor, e.Minor))
}

func (d *DiskIO) add(e *DiskIO) {
	d.Reads, d.ReadBytes = saturated(d.Reads, e.Reads), saturated(d.ReadBytes, e.ReadBytes)
	d.Writes, d.WriteBytes = saturated(d.Writes, e.Writes), saturated(d.WriteBytes, e.WriteBytes)
	d.Discards, d.DiscardBytes = saturated(d.Discards, e.Discards), saturated(d.DiscardBytes, e.DiscardBytes)
}

// IOFiles keeps open the files that report a container's I/O. Read is safe for
// concurrent use, Close is not.
type IOFiles struct {
	files
	stat            *held.File // v2
	bytes, serviced *held.File // v1
	// Incomplete says that the group does not have the controller, so that there is
	// a file to read as soon as it is enabled.
	Incomplete bool
	notEnabled error
}

// OpenIO opens what Read needs at p: io.stat (cgroup-v2.rst, "IO Interface Files"),
// or v1's counters of the throttling policy (blkio-controller.rst), which count the
// descendants only in the files named _recursive, since Linux 4.20.
func OpenIO(o *held.Opener, p Place) (*IOFiles, error) {
	f := &IOFiles{files: files{opener: o}}
	first := "io.stat"
	if p.V2 {
		f.stat = f.own(p.Dirs, first)
	} else {
		first = "blkio.throttle.io_service_bytes"
		const serviced = "blkio.throttle.io_serviced"
		if f.bytes = f.own(p.Dirs, first+"_recursive"); f.bytes != nil {
			f.serviced = f.counted(p.Dirs, serviced+"_recursive")
		} else if f.bytes = f.own(p.Dirs, first); f.bytes != nil {
			f.serviced = f.counted(p.Dirs, serviced)
		}
	}
	f.Incomplete, f.notEnabled = f.stat == nil && f.bytes == nil, notEnabled(p.Dirs, first)
	return opened(f, &f.files)
}

// Read appends the devices to d, one entry each, by ascending number. It returns
// the buffer it worked in as well, grown if it had to be. ErrNotEnabled says that
// nobody counts the group's I/O.
func (f *IOFiles) Read(d []DiskIO, buf []byte) ([]DiskIO, []byte, error) {
	if f.Incomplete {
		return d, buf, f.notEnabled
	}
	start := len(d)
	r := reader{buf: buf}
	if f.stat != nil {
		d = parseIOStat(d, r.text(f.stat))
	} else {
		d = parseV1IO(d, r.text(f.bytes), true)
		d = parseV1IO(d, r.text(f.serviced), false)
	}
	return d[:start+merge(d[start:])], r.buf, r.err
}

// merge makes one entry of all that are of one device, and returns how many are
// left.
func merge(d []DiskIO) (n int) {
	slices.SortFunc(d, func(a, b DiskIO) int { return a.Compare(&b) })
	for i := range d {
		if n > 0 && d[n-1].Compare(&d[i]) == 0 {
			d[n-1].add(&d[i])
			continue
		}
		d[n] = d[i]
		n++
	}
	return n
}

// parseIOStat appends what io.stat says: a line of a device and KEY=VALUE each.
// Keys of other policies (io.cost, io.latency) stand there too. Some kernels, 5.15
// among them, do not end the line of a device that has nothing to say, so that
// the next one follows in it, or the end of the text (blkcg_print_stat,
// block/blk-cgroup.c). A device can be "(unknown)": a path of a multipath disk.
func parseIOStat(d []DiskIO, text []byte) []DiskIO {
	for line := range scan.Lines(text) {
		known := false // which device the keys are of
		for f, rest := scan.Field(line); len(f) > 0; f, rest = scan.Field(rest) {
			key, value, ok := bytes.Cut(f, []byte("="))
			if !ok {
				var dev DiskIO
				if known = dev.parseDevice(f); known {
					d = append(d, dev)
				}
				continue
			}
			v, n := scan.Uint(value)
			if !known || n == 0 || n < len(value) {
				continue
			}
			switch last := &d[len(d)-1]; string(key) {
			case "rbytes":
				last.ReadBytes = v
			case "wbytes":
				last.WriteBytes = v
			case "dbytes":
				last.DiscardBytes = v
			case "rios":
				last.Reads = v
			case "wios":
				last.Writes = v
			case "dios":
				last.Discards = v
			}
		}
	}
	return d
}

// parseV1IO appends what a counter of v1 says: lines of a device, an operation
// and a number, and the sum over all devices at the end, which has no device.
func parseV1IO(d []DiskIO, text []byte, inBytes bool) []DiskIO {
	for line := range scan.Lines(text) {
		f, rest := scan.Field(line)
		var dev DiskIO
		if op, v, ok := scan.KeyValue(rest); ok && dev.parseDevice(f) && dev.set(op, inBytes, v) {
			d = append(d, dev)
		}
	}
	return d
}

// set sets the counter of one operation. It returns false for Sync, Async and
// Total, which count the same requests again.
func (d *DiskIO) set(op []byte, inBytes bool, v uint64) bool {
	requests, bytes := &d.Reads, &d.ReadBytes
	switch string(op) {
	case "Read":
	case "Write":
		requests, bytes = &d.Writes, &d.WriteBytes
	case "Discard":
		requests, bytes = &d.Discards, &d.DiscardBytes
	default:
		return false
	}
	if inBytes {
		requests = bytes
	}
	*requests = v
	return true
}

// parseDevice reads MAJOR:MINOR.
func (d *DiskIO) parseDevice(text []byte) bool {
	major, n := scan.Uint(text)
	if n == 0 || n == len(text) || text[n] != ':' {
		return false
	}
	minor, m := scan.Uint(text[n+1:])
	if m == 0 || n+1+m < len(text) || major > math.MaxUint32 || minor > math.MaxUint32 {
		return false
	}
	d.Major, d.Minor = uint32(major), uint32(minor)
	return true
}
