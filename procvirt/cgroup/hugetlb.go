// SPDX-License-Identifier: Apache-2.0

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
	files
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
	h := &HugeFiles{files: files{opener: o}}
	for _, dir := range dirs {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB")
		kb, err := strconv.ParseUint(name, 10, 54)
		if err != nil {
			h.err = fmt.Errorf("%s: not a page size", dir)
			break
		}
		h.openSize(p, kb<<10, dir)
	}
	return opened(h, &h.files)
}

func (h *HugeFiles) openSize(p Place, bytes uint64, dir string) {
	limit, usage := ".limit_in_bytes", ".usage_in_bytes"
	if p.V2 {
		limit, usage = ".max", ".current"
	}
	s := hugeSize{bytes: bytes}
	for i, group := range p.Dirs {
		prefix := group + "/hugetlb." + sizeName(bytes)
		if f := h.optional(i, prefix+limit); f != nil {
			s.levels = append(s.levels, hugeLevel{f, h.must(i, prefix+usage)})
		}
	}
	if len(s.levels) > 0 {
		s.pages = h.must(0, dir+"/nr_hugepages")
		h.sizes = append(h.sizes, s)
	}
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

// Read appends what the controller says of each size to u. It returns the
// buffer it worked in as well, grown if it had to be.
func (h *HugeFiles) Read(u []HugeUsage, buf []byte) ([]HugeUsage, []byte, error) {
	r := reader{buf: buf}
	for _, s := range h.sizes {
		x := HugeUsage{PageSize: s.bytes, Limit: NoLimit, Free: NoLimit}
		for _, l := range s.levels {
			if limit := r.limit(l.limit); limit != NoLimit {
				x.Limit, x.Free = min(x.Limit, limit), min(x.Free, limit-min(r.number(l.usage), limit))
			}
		}
		x.HostTotal = min(r.number(s.pages), NoLimit/s.bytes) * s.bytes
		u = append(u, x)
	}
	return u, r.buf, r.err
}
