package fs

import (
	"cmp"
	"slices"
	"syscall"
)

// NodeID is the number of a file or directory: the FUSE node id, and st_ino.
//
// The kernel holds node ids for as long as it likes, over a restart of the
// daemon too. So an id is never reused and never changed: a file has the same
// id in every process, in every version.
type NodeID uint64

// The ids below NodeUptime belong to directories. The gaps are held for files
// that are not served yet. Ids with hostBit are those of a CPUTree.
const (
	NodeRoot      NodeID = 1
	NodeProc      NodeID = 2
	NodeSys       NodeID = 3
	NodeDevices   NodeID = 4
	NodeSystem    NodeID = 5
	NodeCPU       NodeID = 6 // the directory; what is not in the table is in the CPUTree
	NodePressure  NodeID = 7
	NodeUptime    NodeID = 16
	NodeMeminfo   NodeID = 17
	NodeStat      NodeID = 18
	NodeCPUInfo   NodeID = 19
	NodeLoadavg   NodeID = 20
	NodeSwaps     NodeID = 21
	NodeDiskstats NodeID = 22
	NodeSlabinfo  NodeID = 23

	NodeCPUOnline      NodeID = 32
	NodeCPUPresent     NodeID = 33
	NodeCPUPossible    NodeID = 34
	NodeCPUOffline     NodeID = 35
	NodePressureCPU    NodeID = 40
	NodePressureMemory NodeID = 41
	NodePressureIO     NodeID = 42
)

// ownLength as the size of a node says that st_size is the length of the
// caller's own content: a container's swaps and slabinfo are a few lines, but
// programs of the host get the host's files.
const ownLength = 0

// lengthRoom, in bytes, is what content may grow by between a GETATTR and the read
// that it is for: some digits, or a row of a CPU.
const lengthRoom = 64

// pageSize is st_blksize, and the largest fixed st_size. With it GNU wc does not
// trust st_size (a multiple of the page size), and GNU tail and sendfile users
// start at offset 0, because the whole file fits in their first block.
const pageSize = 4096

// node is one row of the table.
type node struct {
	id     NodeID
	parent NodeID
	name   string
	mode   uint32 // type and permission bits, as in st_mode
	// size is the st_size in bytes: a bound that the content never
	// exceeds, or ownLength.
	size uint64
}

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

// nodeTable returns the nodes that every MainTree has.
func nodeTable() []node {
	const (
		dir    = syscall.S_IFDIR | 0o555
		sysdir = syscall.S_IFDIR | 0o755
		file   = syscall.S_IFREG | 0o444
		secret = syscall.S_IFREG | 0o400
	)
	return []node{
		{NodeRoot, NodeRoot, "", dir, pageSize},
		{NodeProc, NodeRoot, "proc", dir, pageSize},
		{NodeSys, NodeRoot, "sys", dir, pageSize},
		{NodeDevices, NodeSys, "devices", sysdir, pageSize},
		{NodeSystem, NodeDevices, "system", sysdir, pageSize},
		{NodeCPU, NodeSystem, "cpu", sysdir, pageSize},
		{NodeUptime, NodeProc, "uptime", file, pageSize},
		{NodeMeminfo, NodeProc, "meminfo", file, pageSize},
		{NodeStat, NodeProc, "stat", file, ownLength},
		{NodeCPUInfo, NodeProc, "cpuinfo", file, ownLength},
		{NodeLoadavg, NodeProc, "loadavg", file, pageSize},
		{NodeSwaps, NodeProc, "swaps", file, ownLength},
		{NodeDiskstats, NodeProc, "diskstats", file, ownLength},
		{NodeSlabinfo, NodeProc, "slabinfo", secret, ownLength},
		// All files of sysfs are as large as this.
		{NodeCPUOnline, NodeCPU, "online", file, pageSize},
		{NodeCPUPresent, NodeCPU, "present", file, pageSize},
		{NodeCPUPossible, NodeCPU, "possible", file, pageSize},
		{NodeCPUOffline, NodeCPU, "offline", file, pageSize},
	}
}

// without returns the table without the node id and what is below it.
func without(table []node, id NodeID) []node {
	gone := map[NodeID]bool{id: true}
	return slices.DeleteFunc(table, func(n node) bool {
		gone[n.id] = gone[n.id] || n.id != NodeRoot && gone[n.parent]
		return gone[n.id]
	})
}

// Files returns the ids of all files that a Source has the content of.
func Files() []NodeID {
	var ids []NodeID
	for _, n := range nodeTable() {
		if !n.isDir() {
			ids = append(ids, n.id)
		}
	}
	return ids
}

// tree is the table made ready for lookups. It does not change.
type tree struct {
	nodes    map[NodeID]*node
	children map[NodeID][]*node
	files    []*node // that are no directories
}

func newTree(table []node) *tree {
	// A directory is listed by ascending ids; handleReaddir says why.
	slices.SortFunc(table, func(a, b node) int { return cmp.Compare(a.id, b.id) })
	t := &tree{nodes: make(map[NodeID]*node), children: make(map[NodeID][]*node)}
	for i := range table {
		n := &table[i]
		t.nodes[n.id] = n
		if n.id != NodeRoot {
			t.children[n.parent] = append(t.children[n.parent], n)
		}
		if !n.isDir() {
			t.files = append(t.files, n)
		}
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

// nlink is 1 for a file, and for a directory 2 and one for each directory in it;
// 1 for the directory of CPUs, which find(1) takes for not counted.
func (t *tree) nlink(n *node) uint32 {
	if !n.isDir() || n.id == NodeCPU {
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
