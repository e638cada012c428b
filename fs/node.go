// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"syscall"
)

// NodeID is the number of a file or directory: the FUSE node id, and st_ino.
//
// The kernel holds node ids for as long as it likes, over a restart of the
// daemon too. So an id is never reused and never changed: a file has the same
// id in every process, in every version. Ids with hostBit are those of a HostTree.
type NodeID uint64

// NodeRoot is the root of the mount, which every table has.
const NodeRoot NodeID = 1 // FUSE_ROOT_ID

// Node is a row of the table that a Server serves: a file or a directory.
type Node struct {
	ID NodeID
	// Path is where it is below the root of the mount, without slashes at its ends;
	// "" is the root. The directory that it is in has a row too.
	Path string
	// Mode is the type and the permission bits, as in st_mode. A regular file with
	// write bits can be opened for writing: what is written goes to the Triggers.
	Mode uint32
	// Bound is the st_size in bytes that stat(2) of a path finds: the content never
	// exceeds it. With 0 content is made to find a bound. fstat(2) of a file that the
	// thread has just opened finds the length of its own content.
	Bound uint64
}

// lengthRoom, in bytes, is what content may grow by between a GETATTR and the read
// that it is for: some digits, or a row of a CPU.
const lengthRoom = 64

// pageSize is st_blksize, and st_size of a directory. GNU wc does not take a bound of whole
// pages for the length, and GNU tail and users of sendfile start at offset 0.
const pageSize = 4096

// node is a row made ready.
type node struct {
	id     NodeID
	parent NodeID
	name   string
	mode   uint32
	bound  uint64
	index  int // from 1 on
}

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// anyBound is the st_size of n for who must not wait for its content.
func (n *node) anyBound() uint64 { return max(n.bound, pageSize) }

// isWritable reports whether n can be opened for writing.
func (n *node) isWritable() bool { return !n.isDir() && n.mode&0o222 != 0 }

// tree is the table made ready for lookups. It does not change.
type tree struct {
	nodes    map[NodeID]*node
	children map[NodeID][]*node
	files    []*node // that are no directories
}

// newTree panics if a directory is missing or an id is there twice.
func newTree(table []Node) *tree {
	t := &tree{nodes: make(map[NodeID]*node), children: make(map[NodeID][]*node)}
	ids := make(map[string]NodeID)
	for _, row := range table {
		if t.nodes[row.ID] != nil {
			panic(fmt.Sprintf("two nodes have the id %d", row.ID))
		}
		n := &node{id: row.ID, name: path.Base(row.Path), mode: row.Mode, bound: row.Bound}
		t.nodes[n.id] = n
		if n.isDir() {
			n.bound = pageSize
			ids[row.Path] = n.id
		} else {
			t.files = append(t.files, n)
		}
	}
	for _, row := range table {
		n := t.nodes[row.ID]
		dir := path.Dir(row.Path)
		if dir == "." {
			dir = ""
		}
		var ok bool
		if n.parent, ok = ids[dir]; !ok {
			panic(fmt.Sprintf("no directory for %s", row.Path))
		}
		if n.id != NodeRoot {
			t.children[n.parent] = append(t.children[n.parent], n)
		}
	}
	t.indexNodes()
	// A directory is listed by ascending ids; handleReaddir says why.
	for _, nodes := range t.children {
		slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	}
	return t
}

// node returns nil for an id that is not in the table.
func (t *tree) node(id NodeID) *node { return t.nodes[id] }

// lookup returns nil where dir has no such name. It does not keep name.
func (t *tree) lookup(dir NodeID, name []byte) *node {
	for _, n := range t.children[dir] {
		if n.name == string(name) {
			return n
		}
	}
	return nil
}

// path returns the path of n below the root.
func (t *tree) path(n *node) string {
	path := n.name
	for n = t.nodes[n.parent]; n.id != NodeRoot; n = t.nodes[n.parent] {
		path = n.name + "/" + path
	}
	return path
}

// nlink is 1 for a file, and for a directory 2 and one for each directory in it.
func (t *tree) nlink(n *node) uint32 {
	if !n.isDir() {
		return 1
	}
	links := uint32(2)
	for _, c := range t.children[n.id] {
		if c.isDir() {
			links++
		}
	}
	return links
}
