// SPDX-License-Identifier: Apache-2.0

package fs

import "strings"

// NodeView is which memory nodes a turn's caller has. The methods block as Source.Append
// does, and so are their errors.
type NodeView interface {
	// Nodes returns what reports whether the caller sees a memory node.
	Nodes(t *Turn) (sees func(node int) bool, err error)
	// CPUs returns what reports whether the caller sees a CPU.
	CPUs(t *Turn) (sees func(cpu int) bool, err error)
	// AppendNode appends the content of a file of a node as the caller sees it, unless that
	// is the host's.
	AppendNode(dst []byte, node int, name string, t *Turn) (out []byte, ours bool, err error)
}

// OpenNodeTree opens the host's directory of memory nodes, "/sys/devices/system/node" but in
// tests. dir is the node of sys/devices/system/node in the table. A directory nodeN exists for
// callers that see the node, and in it links to the CPUs that they see. It needs Linux 5.6.
func OpenNodeTree(path string, dir NodeID, view NodeView) (*HostTree, error) {
	return openHostTree(path, dir, "node:", nodeRules{view})
}

// nodeRules are the rules of the directory of the memory nodes.
type nodeRules struct{ view NodeView }

func (r nodeRules) hides(t *Turn, path string) (bool, error) {
	top, below, _ := strings.Cut(path, "/")
	node := numbered(top, "node")
	if node < 0 {
		return false, nil
	}
	if sees, err := r.view.Nodes(t); err != nil || !sees(node) {
		return true, err
	}
	name, _, _ := strings.Cut(below, "/")
	cpu := numbered(name, "cpu")
	if cpu < 0 {
		return false, nil
	}
	sees, err := r.view.CPUs(t)
	return err != nil || !sees(cpu), err
}

func (r nodeRules) filter(t *Turn, dir string) (func(name string) bool, error) {
	kind, view := "cpu", r.view.CPUs
	switch {
	case dir == ".":
		kind, view = "node", r.view.Nodes
	case numbered(dir, "node") < 0:
		return nil, nil
	}
	sees, err := view(t)
	return func(name string) bool {
		n := numbered(name, kind)
		return n < 0 || sees(n)
	}, err
}

func (r nodeRules) append(dst []byte, path string, t *Turn) (out []byte, ours bool, err error) {
	top, name, ok := strings.Cut(path, "/")
	node := numbered(top, "node")
	if !ok || node < 0 {
		return dst, false, nil
	}
	return r.view.AppendNode(dst, node, name, t)
}
