package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"vprocfs/procvirt/held"
)

// HugeUsage is what the hugetlb controller says of one size of huge pages. All
// values are in bytes.
type HugeUsage struct {
	PageSize uint64
	// Limit is the smallest limit of the group and its ancestors.
	Limit uint64
	Usage uint64
	// HostTotal is what the host has of this size.
	HostTotal uint64
}

// HugeFiles holds the hugetlb controller's files of a container open, for every
// page size of the host. Read is safe for concurrent use, beside Close it is
// not.
type HugeFiles struct {
	sizes []hugeSize
}

type hugeSize struct {
	bytes  uint64
	limits []*held.File
	usage  *held.File
	pages  *held.File
}

// OpenHugeTLB opens what Read needs at p. sys is the host's /sys. A size that
// the controller does not count anywhere is left out.
func OpenHugeTLB(o *held.Opener, p Place, sys string) (*HugeFiles, error) {
	dirs, err := filepath.Glob(sys + "/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		return nil, err
	}
	h := &HugeFiles{}
	for _, dir := range dirs {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB")
		kb, err := strconv.ParseUint(name, 10, 54)
		if err != nil {
			return nil, fmt.Errorf("%s: not a page size", dir)
		}
		if err := h.open(o, p, kb<<10, dir); err != nil {
			h.Close()
			return nil, err
		}
	}
	return h, nil
}

func (h *HugeFiles) open(o *held.Opener, p Place, bytes uint64, dir string) (err error) {
	limit, usage := ".limit_in_bytes", ".usage_in_bytes"
	if p.V2 {
		limit, usage = ".max", ".current"
	}
	prefix := "hugetlb." + sizeName(bytes)
	s := hugeSize{bytes: bytes}
	if s.limits, err = openLevels(o, p.Dirs, prefix+limit); err != nil || len(s.limits) == 0 {
		return err
	}
	h.sizes = append(h.sizes, s)
	last := &h.sizes[len(h.sizes)-1]
	if last.usage, _, err = openNearest(o, p.Dirs, prefix+usage); err != nil {
		return err
	}
	last.pages, err = o.Open(dir + "/nr_hugepages")
	return err
}

// sizeName is how the controller writes a page size (mem_fmt,
// mm/hugetlb_cgroup.c).
func sizeName(bytes uint64) string {
	switch {
	case bytes >= 1<<30:
		return strconv.FormatUint(bytes>>30, 10) + "GB"
	case bytes >= 1<<20:
		return strconv.FormatUint(bytes>>20, 10) + "MB"
	}
	return strconv.FormatUint(bytes>>10, 10) + "KB"
}

// Close closes the files.
func (h *HugeFiles) Close() {
	if h == nil {
		return
	}
	for _, s := range h.sizes {
		for _, f := range s.limits {
			f.Close()
		}
		s.usage.Close()
		s.pages.Close()
	}
}

// Read appends what the controller says of each size to u. It returns the
// buffer it worked in as well, grown where it had to be.
func (h *HugeFiles) Read(u []HugeUsage, buf []byte) ([]HugeUsage, []byte, error) {
	for _, s := range h.sizes {
		x := HugeUsage{PageSize: s.bytes, Limit: NoLimit}
		var pages uint64
		var err error
		if buf, err = readMin(s.limits, &x.Limit, buf); err == nil {
			buf, err = readUint(s.usage, &x.Usage, buf)
		}
		if err == nil {
			buf, err = readUint(s.pages, &pages, buf)
		}
		if err != nil {
			return u, buf, err
		}
		x.HostTotal = min(pages, NoLimit/s.bytes) * s.bytes
		u = append(u, x)
	}
	return u, buf, nil
}
