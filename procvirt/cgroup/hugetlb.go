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
	// Limit is the smallest limit of the group and its ancestors, and Free the
	// smallest that is left of one.
	Limit, Free uint64
	// HostTotal is what the host has of this size.
	HostTotal uint64
}

// HugeFiles keeps open the hugetlb controller's files of a container, for every
// page size of the host. Read is safe for concurrent use, Close is not.
type HugeFiles struct {
	sizes []hugeSize
}

type hugeSize struct {
	bytes  uint64
	levels []hugeLevel
	pages  *held.File
}

type hugeLevel struct{ limit, usage *held.File }

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
	h.sizes = append(h.sizes, hugeSize{bytes: bytes})
	s := &h.sizes[len(h.sizes)-1]
	for i, group := range p.Dirs {
		var l hugeLevel
		if l.limit, err = openOptionalAt(o, i, group+"/"+prefix+limit); err != nil {
			return err
		}
		if l.limit == nil {
			continue
		}
		s.levels = append(s.levels, l)
		if s.levels[len(s.levels)-1].usage, err = openAt(o, i, group+"/"+prefix+usage); err != nil {
			return err
		}
	}
	if len(s.levels) == 0 {
		h.sizes = h.sizes[:len(h.sizes)-1]
		return nil
	}
	s.pages, err = o.Open(dir + "/nr_hugepages")
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
		for _, l := range s.levels {
			l.limit.Close()
			l.usage.Close()
		}
		s.pages.Close()
	}
}

// Read appends what the controller says of each size to u. It returns the
// buffer it worked in as well, grown where it had to be.
func (h *HugeFiles) Read(u []HugeUsage, buf []byte) ([]HugeUsage, []byte, error) {
	for _, s := range h.sizes {
		x := HugeUsage{PageSize: s.bytes, Limit: NoLimit, Free: NoLimit}
		var pages uint64
		var err error
		for _, l := range s.levels {
			limit, usage := uint64(NoLimit), uint64(0)
			if buf, err = readMin(l.limit, &limit, buf); err == nil && limit != NoLimit {
				buf, err = readUint(l.usage, &usage, buf)
			}
			if err != nil {
				return u, buf, err
			}
			x.Limit, x.Free = min(x.Limit, limit), min(x.Free, limit-min(usage, limit))
		}
		if buf, err = readUint(s.pages, &pages, buf); err != nil {
			return u, buf, err
		}
		x.HostTotal = min(pages, NoLimit/s.bytes) * s.bytes
		u = append(u, x)
	}
	return u, buf, nil
}
