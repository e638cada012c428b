// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// NodeFiles keeps open the files that report how much memory the memory nodes of a
// container's cpuset have. Read is safe for concurrent use, Close is not.
type NodeFiles struct {
	files
	mems  *held.File
	nodes []node
}

type node struct {
	number  int
	meminfo *held.File
}

// OpenNodes opens what Read needs at p, the place of the cpuset controller. sys is the
// host's /sys. It opens nothing if the host has a single node.
func OpenNodes(o *held.Opener, p Place, sys string) (*NodeFiles, error) {
	n := &NodeFiles{files: files{opener: o}}
	dirs, err := filepath.Glob(sys + "/devices/system/node/node[0-9]*")
	if err != nil || len(dirs) < 2 || len(p.Dirs) == 0 {
		return n, err
	}
	n.mems, _ = n.openSet(p, "/cpuset.mems.effective", "/cpuset.effective_mems")
	for _, dir := range dirs {
		number, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(dir), "node"), 10, 13)
		if err == nil {
			// Level 1: all containers share it.
			n.nodes = append(n.nodes, node{int(number), n.must(1, dir+"/meminfo")})
		}
	}
	return opened(n, &n.files)
}

// Read returns the memory of the nodes that the container may use, in bytes, and
// NoLimit if that is all of them. It works in set and in buf, which it returns, grown
// if it had to be.
func (n *NodeFiles) Read(set *CPUs, buf []byte) (uint64, []byte, error) {
	if n.mems == nil {
		return NoLimit, buf, nil
	}
	r := reader{buf: buf}
	r.set(n.mems, set)
	if !slices.ContainsFunc(n.nodes, func(d node) bool { return !set.Has(d.number) }) {
		return NoLimit, r.buf, r.err
	}
	sum := uint64(0)
	for _, d := range n.nodes {
		if set.Has(d.number) {
			text := r.text(d.meminfo)
			kb, ok := nodeTotal(text)
			if !ok {
				r.bad(d.meminfo, "the memory of a node", text)
			}
			sum = saturated(sum, min(kb, NoLimit>>10)<<10)
		}
	}
	return sum, r.buf, r.err
}

// nodeTotal finds "Node 0 MemTotal:  1234 kB" (node_read_meminfo, drivers/base/node.c).
func nodeTotal(text []byte) (kb uint64, ok bool) {
	_, rest, ok := bytes.Cut(text, []byte(" MemTotal:"))
	f, _ := scan.Field(rest)
	kb, n := scan.Uint(f)
	return kb, ok && n > 0
}
