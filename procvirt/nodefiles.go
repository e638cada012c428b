// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"math/bits"
	"strconv"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
)

// eachNode is the directory, in the paths of rows, of whatever memory node a request is
// about. The host has no such path: so these files are no nodes of the view, and
// Container.AppendNode makes them.
const eachNode = nodeDir + "node*/"

func nodeCPUListFile() File {
	return nodeFile("cpulist", 53, sourceCPU, func() numbers { return new(nodeCPUList) })
}

func nodeCPUMapFile() File {
	return nodeFile("cpumap", 54, sourceCPU, func() numbers { return new(nodeCPUMap) })
}

func nodeMeminfoFile() File {
	return nodeFile("meminfo", 55, sourceMemory, func() numbers { return new(nodeMeminfo) })
}

func nodeNumastatFile() File {
	return nodeFile("numastat", 56, 0, func() numbers { return new(nodeNumastat) })
}

func nodeFile(name string, node uint64, needs sources, n func() numbers) File {
	return File{
		Path: eachNode + name, Node: node, Mode: 0o444, Size: SizePage,
		fromHost: true,
		host:     host.Source{Optional: true},
		needs:    sourceNodes | needs,
		numbers:  n,
	}
}

// appendNodePath appends the path of a file of a node, with the NUL byte that held.ReadAt
// wants.
func appendNodePath(dst []byte, node int, name string) []byte {
	dst = append(dst, "/"+nodeDir+"node"...)
	dst = strconv.AppendInt(dst, int64(node), 10)
	dst = append(dst, '/')
	dst = append(dst, name...)
	return append(dst, 0)
}

// nodeCPUs is what nodeN/cpulist and nodeN/cpumap rest on.
type nodeCPUs struct {
	cpuView
	text []byte // the host's
}

func (n *nodeCPUs) reset() {
	n.cpuView.reset()
	n.text = nil
}

func (n *nodeCPUs) gatherFile(c *Container, name string) (err error) {
	if err := n.cpuView.gather(c); err != nil {
		return err
	}
	n.text, err = c.readNode(c.node, name)
	return err
}

// nodeCPUList is what nodeN/cpulist shows: the visible CPUs of the node.
type nodeCPUList struct {
	nodeCPUs
	cpus cgroup.CPUs
}

func (n *nodeCPUList) reset() {
	n.nodeCPUs.reset()
	n.cpus.Clear()
}

func (n *nodeCPUList) gather(c *Container) error {
	if err := n.gatherFile(c, "cpulist"); err != nil {
		return err
	}
	if err := n.cpus.Parse(n.text); err != nil {
		return err
	}
	n.cpus.Intersect(&n.visible)
	return nil
}

func (n *nodeCPUList) append(dst []byte) []byte { return append(n.cpus.AppendList(dst), '\n') }

// nodeCPUMap is what nodeN/cpumap shows: the same as a bitmap, as wide as the host's
// (%*pb: groups of 32 bits, the highest first, with commas between them).
type nodeCPUMap struct{ nodeCPUs }

func (n *nodeCPUMap) gather(c *Container) error { return n.gatherFile(c, "cpumap") }

func (n *nodeCPUMap) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, n.text...)
	cpu := 0
	for i := len(dst) - 1; i >= start; i-- {
		digit, ok := hexDigit(dst[i])
		if !ok {
			continue
		}
		for left := digit; left != 0; left &= left - 1 {
			if bit := bits.TrailingZeros8(left); !n.visible.Has(cpu + bit) {
				digit &^= 1 << bit
			}
		}
		dst[i] = "0123456789abcdef"[digit]
		cpu += 4
	}
	return dst
}

func hexDigit(c byte) (n uint8, ok bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// nodeNumastat is what nodeN/numastat shows: no control group counts where its pages came
// from.
type nodeNumastat struct{ text []byte }

func (n *nodeNumastat) reset() { n.text = nil }

func (n *nodeNumastat) gather(c *Container) (err error) {
	n.text, err = c.readNode(c.node, "numastat")
	return err
}

func (n *nodeNumastat) append(dst []byte) []byte {
	for line := range scan.Lines(n.text) {
		name, _ := scan.Field(line)
		dst = append(dst, name...)
		dst = append(dst, " 0\n"...)
	}
	return dst
}

// nodeMeminfo is what nodeN/meminfo shows.
type nodeMeminfo struct {
	memory meminfo // the container's
	nodes  cgroup.CPUs
	work   cgroup.CPUs
	shares []nodeShare // of each node that the container has
	own    nodeShare
	stat   cgroup.MemoryStat // of the node
	text   []byte            // the host's
}

// nodeShare is the memory of a node, in bytes.
type nodeShare struct {
	node        int
	total, used uint64
	free        uint64
}

func (n *nodeMeminfo) reset() {
	n.memory.reset()
	n.nodes.Clear()
	n.work.Clear()
	*n = nodeMeminfo{memory: n.memory, nodes: n.nodes, work: n.work, shares: n.shares[:0]}
}

func (n *nodeMeminfo) gather(c *Container) (err error) {
	if err := n.memory.gather(c); err != nil {
		return err
	}
	var l memoryLines
	l.derive(&n.memory)
	if c.host, err = c.registry.readHost(nodeDir+"online", c.host); err != nil {
		return err
	}
	if err = n.nodes.Parse(c.host); err != nil {
		return err
	}
	if c.buf, err = c.numa.Restrict(&n.nodes, &n.work, c.buf); err != nil {
		return err
	}
	var usage []byte
	if usage, c.buf, err = c.numa.Usage(c.buf); err != nil {
		return err
	}
	for node := n.nodes.Next(0); node >= 0; node = n.nodes.Next(node + 1) {
		text, err := c.readNode(node, "meminfo")
		if err != nil {
			return err
		}
		s := nodeShare{node: node, total: nodeTotal(text)}
		c.numa.NodeStat(&n.stat, usage, node)
		s.used = n.stat.Used()
		n.shares = append(n.shares, s)
	}
	shareOut(n.shares, l.total, l.free)
	for _, s := range n.shares {
		if s.node == c.node {
			n.own = s
		}
	}
	c.numa.NodeStat(&n.stat, usage, c.node)
	n.text, err = c.readNode(c.node, "meminfo")
	return err
}

// nodeTotal returns MemTotal of a node's meminfo, in bytes.
func nodeTotal(text []byte) uint64 {
	_, rest, _ := bytes.Cut(text, []byte(" MemTotal:"))
	return bytesOfLine(rest)
}

// shareOut makes the totals of the nodes those of parts of total, in their proportion, and
// divides free among them in the proportion of what is not used. The sums are total and at
// most free; no node has more free than it has.
func shareOut(nodes []nodeShare, total, free uint64) {
	divide(nodes, total, func(s *nodeShare) *uint64 { return &s.total })
	room := uint64(0)
	for i := range nodes {
		s := &nodes[i]
		s.free = sub(s.total, s.used)
		room = add(room, s.free)
	}
	if room > free {
		divide(nodes, free, func(s *nodeShare) *uint64 { return &s.free })
	}
}

// divide makes the sum of the parts that part returns sum, a whole number of KiB each but for
// the last, in the proportion that they are in.
func divide(nodes []nodeShare, sum uint64, part func(*nodeShare) *uint64) {
	whole := uint64(0)
	for i := range nodes {
		whole = add(whole, *part(&nodes[i]))
	}
	for i := range nodes {
		p := part(&nodes[i])
		n := sum
		if whole > *p {
			n = cgroup.MulDiv(sum, *p, whole) &^ 1023
		}
		whole -= min(*p, whole)
		sum -= n
		*p = n
	}
}

// append writes nodeN/meminfo (node_read_meminfo): the host's lines with the container's
// numbers. Lines it does not know stay as they are.
func (n *nodeMeminfo) append(dst []byte) []byte {
	l := memoryLines{stat: &n.stat, total: n.own.total, free: n.own.free}
	for line := range scan.Lines(n.text) {
		at := bytes.IndexByte(line, ':') + 1
		label := line[:max(at-1, 0)]
		label = label[bytes.LastIndexByte(label, ' ')+1:]
		v, plain, ok := l.value(label)
		switch string(label) {
		case "MemUsed":
			v, ok = sub(l.total, l.free), true
		case "FilePages":
			v, ok = n.stat.File, true
		}
		if ok && at > 0 && !plain {
			dst = appendReplaced(dst, line, at, v>>10)
		} else {
			dst = append(dst, line...)
		}
		dst = append(dst, '\n')
	}
	return dst
}
