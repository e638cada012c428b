package fs

import "syscall"

// NodeID is the number of a file or directory: the FUSE node id, and st_ino.
//
// The kernel holds node ids for as long as it likes, over a restart of the
// daemon too. So an id is never reused and never changed: a file has the same
// id in every process, in every version.
type NodeID uint64

// The ids below NodeUptime belong to directories. The gaps are held for files
// that are not served yet: loadavg 20; 3 to 7 for pressure and for
// sys/devices/system/cpu with its parents; 32 to 63 for the files in those.
const (
	NodeRoot      NodeID = 1
	NodeProc      NodeID = 2
	NodeUptime    NodeID = 16
	NodeMeminfo   NodeID = 17
	NodeStat      NodeID = 18
	NodeCPUInfo   NodeID = 19
	NodeSwaps     NodeID = 21
	NodeDiskstats NodeID = 22
	NodeSlabinfo  NodeID = 23
)

// ownLength as the size of a node says that st_size is the length of the
// caller's own content: a container's swaps and slabinfo are a few lines, but
// programs of the host get the host's files.
const ownLength = 0

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

// nodeTable returns all nodes, in the order of their ids: that is the order of
// readdir(3).
func nodeTable() []node {
	const (
		dir    = syscall.S_IFDIR | 0o555
		file   = syscall.S_IFREG | 0o444
		secret = syscall.S_IFREG | 0o400
	)
	return []node{
		{NodeRoot, NodeRoot, "", dir, pageSize},
		{NodeProc, NodeRoot, "proc", dir, pageSize},
		{NodeUptime, NodeProc, "uptime", file, pageSize},
		{NodeMeminfo, NodeProc, "meminfo", file, pageSize},
		{NodeStat, NodeProc, "stat", file, ownLength},
		{NodeCPUInfo, NodeProc, "cpuinfo", file, ownLength},
		{NodeSwaps, NodeProc, "swaps", file, ownLength},
		{NodeDiskstats, NodeProc, "diskstats", file, ownLength},
		{NodeSlabinfo, NodeProc, "slabinfo", secret, ownLength},
	}
}

// tree is the table made ready for lookups. It does not change.
type tree struct {
	nodes    map[NodeID]*node
	children map[NodeID][]*node
}

func newTree(table []node) *tree {
	t := &tree{nodes: make(map[NodeID]*node), children: make(map[NodeID][]*node)}
	for i := range table {
		n := &table[i]
		t.nodes[n.id] = n
		if n.id != NodeRoot {
			t.children[n.parent] = append(t.children[n.parent], n)
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

// mayRead says whether the permission bits of n let c read it. The kernel does
// not check them: the mount has allow_other and no default_permissions, which
// would check them against attributes that are cached across containers. The
// caller's supplementary groups are not known here and count as other.
func mayRead(n *node, c Caller) bool {
	switch {
	case c.UID == 0:
		return true
	case c.GID == 0:
		return n.mode&0o040 != 0
	default:
		return n.mode&0o004 != 0
	}
}
