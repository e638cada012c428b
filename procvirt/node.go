// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"strings"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/held"
	"vprocfs/procvirt/host"
)

// The files of /sys/devices/system/node (drivers/base/node.c). The container's nodes are
// those of cpuset.mems.effective, by their numbers; all of the host's if no cpuset bounds
// them.

const nodeDir = "sys/devices/system/node/"

func nodeOnlineFile() File          { return nodeListFile(0, nodeOnline, 0) }
func nodePossibleFile() File        { return nodeListFile(1, 49, 0) }
func nodeHasMemoryFile() File       { return nodeListFile(2, 50, 0) }
func nodeHasNormalMemoryFile() File { return nodeListFile(3, 51, 0) }
func nodeHasCPUFile() File          { return nodeListFile(hasCPU, 52, sourceCPU) }

const (
	nodeOnline = 48 // the node of the view
	hasCPU     = 4  // in nodePaths
)

var nodePaths = [...]string{
	nodeDir + "online", nodeDir + "possible", nodeDir + "has_memory", nodeDir + "has_normal_memory", hasCPU: nodeDir + "has_cpu",
}

// nodeListFile is a file that lists nodes. It is there if the host has memory nodes
// (CONFIG_NUMA).
func nodeListFile(which uint, node uint64, needs sources) File {
	return File{
		Path: nodePaths[which], Node: node, Mode: 0o444, Size: SizePage,
		fromHost: true,
		host:     host.Source{Optional: true},
		needs:    sourceNodes | needs,
		numbers:  func() numbers { return &nodeList{which: which} },
	}
}

// nodeList is what a file that lists nodes shows.
type nodeList struct {
	which uint
	nodes cgroup.CPUs
	cpuView
	work cgroup.CPUs
}

func (n *nodeList) reset() {
	n.nodes.Clear()
	n.work.Clear()
	n.cpuView.reset()
}

func (n *nodeList) gather(c *Container) (err error) {
	if c.host, err = c.registry.readHost(nodePaths[n.which], c.host); err != nil {
		return err
	}
	if err = n.nodes.Parse(c.host); err != nil {
		return err
	}
	if c.buf, err = c.numa.Restrict(&n.nodes, &n.work, c.buf); err != nil || n.which != hasCPU {
		return err
	}
	if err := n.cpuView.gather(c); err != nil {
		return err
	}
	for node := n.nodes.Next(0); node >= 0; node = n.nodes.Next(node + 1) {
		text, err := c.readNode(node, "cpulist")
		if err == nil {
			err = n.work.Parse(text)
		}
		if err != nil {
			return err
		}
		if n.work.Intersect(&n.visible); n.work.Count() == 0 {
			n.nodes.Remove(node)
		}
	}
	return nil
}

func (n *nodeList) append(dst []byte) []byte { return append(n.nodes.AppendList(dst), '\n') }

// readNode reads a file of a node of the host. The text is valid until the next call.
func (c *Container) readNode(node int, name string) ([]byte, error) {
	c.path = appendNodePath(append(c.path[:0], c.registry.cfg.Root...), node, name)
	text, err := held.ReadAt(c.path, c.host)
	if err == nil {
		c.host = text
	}
	return text, err
}

// Nodes sets set to the memory nodes that the container sees. It returns false if that is
// all of the host's, and a Reason is counted.
func (c *Container) Nodes(set *cgroup.CPUs) (ok bool, err error) {
	return c.listed(set, c.registry.File(nodeOnline))
}

// VisibleCPUs is Nodes for CPUs.
func (c *Container) VisibleCPUs(set *cgroup.CPUs) (ok bool, err error) {
	return c.listed(set, c.registry.File(onlineNode))
}

func (c *Container) listed(set *cgroup.CPUs, f *File) (ok bool, err error) {
	text, err := c.content(c.list[:0], f)
	if err != nil {
		return false, c.registry.fallBack(f, err)
	}
	c.list = text
	err = set.Parse(text)
	return err == nil, err
}

// AppendNode appends a file of a memory node as the container sees it. ours is false if that
// is the host's file: if it is not one of those that differ, or if a Reason is counted.
func (c *Container) AppendNode(dst []byte, node int, name string) (text []byte, ours bool, err error) {
	f := c.registry.nodeFile(name)
	if f == nil {
		return dst, false, nil
	}
	c.node = node
	c.countRead()
	text, err = c.content(dst, f)
	c.countFile(f)
	if err != nil {
		return dst, false, c.registry.fallBack(f, err)
	}
	return text, true, nil
}

// HasNodes reports whether the host has memory nodes.
func (r *Registry) HasNodes() bool { return r.host[nodeDir+"online"] != nil }

// NoNodes counts the Reason that err has for showing the host's nodes. It returns err if
// that is none.
func (r *Registry) NoNodes(err error) error { return r.fallBack(r.File(nodeOnline), err) }

// nodeFile returns the row of the file of that name in the directory of each node, nil if
// there is none.
func (r *Registry) nodeFile(name string) *File {
	for i := range r.files {
		if base, ok := strings.CutPrefix(r.files[i].Path, eachNode); ok && base == name {
			return &r.files[i]
		}
	}
	return nil
}

func (s *state) openNodes() error {
	if err := s.inGroup(); err != nil {
		return err
	}
	numa, err := cgroup.OpenNUMA(&s.space.owner.opener, s.places[cgroup.CPUSet], s.places[cgroup.Memory])
	if err == nil {
		s.numa = numa
		s.opened = append(s.opened, numa)
	}
	return err
}
