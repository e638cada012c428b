package cgroup

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// NodeFiles keeps open the files that report how much memory the memory nodes of a
// container's cpuset have. Read is safe for concurrent use, Close is not.
type NodeFiles struct {
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
	dirs, err := filepath.Glob(sys + "/devices/system/node/node[0-9]*")
	if err != nil || len(dirs) < 2 || len(p.Dirs) == 0 {
		return nil, err
	}
	n := &NodeFiles{}
	if err := n.open(o, p, dirs); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *NodeFiles) open(o *held.Opener, p Place, dirs []string) (err error) {
	name := "/cpuset.effective_mems"
	if p.V2 {
		name = "/cpuset.mems.effective"
	}
	if n.mems, _, err = openSet(o, p, name); err != nil {
		return err
	}
	for _, dir := range dirs {
		number, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(dir), "node"), 10, 13)
		if err != nil {
			continue
		}
		f, err := o.OpenShared(dir + "/meminfo")
		if err != nil {
			return err
		}
		n.nodes = append(n.nodes, node{int(number), f})
	}
	return nil
}

// Close closes the files.
func (n *NodeFiles) Close() {
	if n == nil {
		return
	}
	n.mems.Close()
	for _, d := range n.nodes {
		d.meminfo.Close()
	}
}

// Read returns the memory of the nodes that the container may use, in bytes, and
// NoLimit if that is all of them. It works in set and in buf, which it returns, grown
// where it had to be.
func (n *NodeFiles) Read(set *CPUs, buf []byte) (uint64, []byte, error) {
	if n == nil || n.mems == nil {
		return NoLimit, buf, nil
	}
	buf, err := readSet(n.mems, set, buf)
	if err != nil {
		return 0, buf, err
	}
	sum, all := uint64(0), true
	for _, d := range n.nodes {
		if !set.Has(d.number) {
			all = false
		}
	}
	if all {
		return NoLimit, buf, nil
	}
	for _, d := range n.nodes {
		if !set.Has(d.number) {
			continue
		}
		b, err := d.meminfo.Read(buf)
		if err != nil {
			return 0, buf, err
		}
		buf = b
		kb, ok := nodeTotal(b)
		if !ok {
			return 0, buf, fmt.Errorf("%s: no MemTotal in %q", d.meminfo.Path(), b[:min(len(b), 80)])
		}
		sum = saturated(sum, min(kb, NoLimit>>10)<<10)
	}
	return sum, buf, nil
}

// nodeTotal finds "Node 0 MemTotal:  1234 kB" (node_read_meminfo, drivers/base/node.c).
func nodeTotal(text []byte) (kb uint64, ok bool) {
	_, rest, ok := bytes.Cut(text, []byte(" MemTotal:"))
	f, _ := scan.Field(rest)
	kb, n := scan.Uint(f)
	return kb, ok && n > 0
}
