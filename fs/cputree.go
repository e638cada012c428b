package fs

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// CPUTree is the host's /sys/devices/system/cpu, which the mount shows as
// sys/devices/system/cpu: the files that the node table has there are the
// Source's, all others the host's, read-only, to whom the host's permission bits
// let in. Only directories, regular files and symbolic links are shown. A
// directory cpuN exists for callers that may have a CPU of that number or a
// higher one. If the caller does not see that CPU, it looks switched off.
//
// The host's files are reached with openat2(2) below a descriptor of the
// directory: no name, no symbolic link and no mount leads out of it. A symbolic
// link is shown as one, and it is the kernel that follows it, in the caller's
// mount namespace.
//
// It is safe for concurrent use.
type CPUTree struct {
	dir  NodeID // the directory's
	root int    // O_PATH
	view CPUView

	mu sync.Mutex
	// paths are those of the entries that the kernel has asked for. Nothing
	// a caller makes up gets here, only what the host has, and it is
	// bounded all the same: what was forgotten is found again.
	paths map[NodeID]string
}

// maxPaths bounds CPUTree.paths, to about 8 MiB. A CPU has some 100 files.
const maxPaths = 1 << 16

// CPUView is which CPUs a turn's caller has. The methods block as Source.Append does,
// and so are their errors.
type CPUView interface {
	// LastCPU returns the number of the highest CPU that the caller may have,
	// math.MaxInt for all of the host's.
	LastCPU(t *Turn) (int, error)
	// CPUOffline reports whether a CPU that the caller may have is off for it.
	CPUOffline(t *Turn, cpu int) (bool, error)
}

// OpenCPUTree opens the host's directory, "/sys/devices/system/cpu" but in tests. dir is
// the node of sys/devices/system/cpu in the table. It needs Linux 5.6.
func OpenCPUTree(path string, dir NodeID, view CPUView) (*CPUTree, error) {
	root, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	t := &CPUTree{dir: dir, root: root, view: view, paths: make(map[NodeID]string)}
	fd, err := t.open(".", unix.O_PATH)
	if err != nil {
		t.Close()
		if errors.Is(err, unix.ENOSYS) {
			err = fmt.Errorf("openat2 needs Linux 5.6: %w", err)
		}
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	unix.Close(fd)
	return t, nil
}

// Close closes the directory. No Server may use it any more.
func (t *CPUTree) Close() { unix.Close(t.root) }

// hostBit is set in the ids of the host's entries. The rest of such an id is made
// of the path below the directory, so that it is the same in every process that
// ever serves the mount: 15 bits of the first name's hash and 48 bits of the whole
// path's. The former lead to the part of the host's tree to look in.
const (
	hostBit  NodeID = 1 << 63
	pathBits        = 48
)

func hostID(path string) NodeID {
	top, _, _ := strings.Cut(path, "/")
	return hostBit | topHash(top)<<pathBits | NodeID(hash(path)&(1<<pathBits-1))
}

func topHash(top string) NodeID { return NodeID(hash(top) >> 49) }

func hash(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(sum[:])
}

// errCollision says that two entries have the same id.
var errCollision = errors.New("two entries of the host's CPUs have the same id")

// remember returns the id of the entry at path.
func (t *CPUTree) remember(path string) (NodeID, error) {
	id := hostID(path)
	t.mu.Lock()
	defer t.mu.Unlock()
	if known, ok := t.paths[id]; ok && known != path {
		return 0, fmt.Errorf("%s and %s: %w", known, path, errCollision)
	}
	if len(t.paths) >= maxPaths {
		clear(t.paths)
	}
	t.paths[id] = path
	return id, nil
}

// path returns the path below the directory of the entry id, "." for the
// directory itself. It returns ESTALE if the host does not have the entry, or not any
// more.
//
// An id that is not known was given out by a former process: the host's tree is
// searched for it.
func (t *CPUTree) path(id NodeID, turn *Turn) (string, error) {
	if id == t.dir {
		return ".", nil
	}
	t.mu.Lock()
	path, ok := t.paths[id]
	t.mu.Unlock()
	if ok {
		return path, nil
	}
	if err := turn.Block(0); err != nil {
		return "", err
	}
	return t.find(id)
}

// find is path for those who may take their time.
func (t *CPUTree) find(id NodeID) (string, error) {
	t.mu.Lock()
	path, ok := t.paths[id]
	t.mu.Unlock()
	if ok {
		return path, nil
	}
	path, err := t.search(id)
	if err != nil {
		return "", err
	}
	_, err = t.remember(path)
	return path, err
}

// search looks for an id among all of the host's entries that can have it.
func (t *CPUTree) search(id NodeID) (string, error) {
	found := ""
	var walk func(path string, entries []dirent) error
	walk = func(dir string, entries []dirent) error {
		for _, e := range entries {
			if dir == "." && topHash(e.name) != id&^hostBit>>pathBits {
				continue
			}
			path := join(dir, e.name)
			if hostID(path) == id {
				if found != "" {
					return fmt.Errorf("%s and %s: %w", found, path, errCollision)
				}
				found = path
			}
			if e.mode != unix.S_IFDIR {
				continue
			}
			below, err := t.list(path)
			if err != nil {
				continue // it has gone meanwhile
			}
			if err := walk(path, below); err != nil {
				return err
			}
		}
		return nil
	}
	entries, err := t.list(".")
	if err == nil {
		err = walk(".", entries)
	}
	if err == nil && found == "" {
		err = unix.ESTALE
	}
	return found, err
}

// join returns the path of an entry of a directory.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// open opens the entry at path, which must be a path of the host's tree. It
// follows no symbolic link, though it opens one with O_PATH. What lies behind a
// link, or in a file system that is mounted there, does not exist.
func (t *CPUTree) open(path string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(t.root, path, &how)
		switch err {
		case unix.EINTR:
			continue
		case unix.ELOOP, unix.EXDEV:
			err = unix.ENOENT
		}
		return fd, err
	}
}

// stat returns the attributes of the entry at path. Other kinds of entries than
// those that are shown do not exist.
func (t *CPUTree) stat(path string) (st unix.Stat_t, err error) {
	fd, err := t.open(path, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	if err = unix.Fstat(fd, &st); err == nil && !shown(st.Mode) {
		err = unix.ENOENT
	}
	return st, err
}

// shown reports whether entries of this mode are shown.
func shown(mode uint32) bool {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG, unix.S_IFLNK:
		return true
	}
	return false
}

// statFor is stat by c: EACCES if c may not search a directory on the way.
func (t *CPUTree) statFor(path string, c Caller) (st unix.Stat_t, err error) {
	if c.UID != 0 {
		if err := t.mayReach(path, c); err != nil {
			return st, err
		}
	}
	return t.stat(path)
}

// cpuOf returns the number of the CPU that path is about, -1 for all other paths, and
// the path below the CPU's directory.
func cpuOf(path string) (cpu int, below string) {
	top, below, _ := strings.Cut(path, "/")
	number, ok := strings.CutPrefix(top, "cpu")
	if !ok {
		return -1, below
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return -1, below
	}
	return int(n), below
}

// ofOnlineCPU reports whether an entry of a CPU's directory is there only while the CPU
// is on. Programs count physical cores from them. The CPU's file online, if the host
// has one, then says 0; the first CPU often has none, as it cannot be switched off, and
// gets none.
func ofOnlineCPU(below string) bool {
	top, _, _ := strings.Cut(below, "/")
	return top == "topology" || top == "cache"
}

// mayReach returns EACCES where c may not search a directory on the way to path.
func (t *CPUTree) mayReach(path string, c Caller) error {
	dir := "."
	for i := 0; ; i++ {
		st, err := t.stat(dir)
		if err != nil {
			return err
		}
		if !permits(st.Mode, st.Uid, st.Gid, c, unix.X_OK) {
			return unix.EACCES
		}
		slash := strings.IndexByte(path[i:], '/')
		if slash < 0 {
			return nil
		}
		i += slash
		dir = path[:i]
	}
}

// readlink returns the text of the symbolic link at path.
func (t *CPUTree) readlink(path string) (string, error) {
	fd, err := t.open(path, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err == unix.ENOENT {
		err = unix.EINVAL // without a name, ENOENT means that it is no link
	}
	return string(buf[:max(n, 0)]), err
}

// maxHostContent bounds the host's files, in bytes. The largest there are a few
// pages.
const maxHostContent = 1 << 20

// read appends the content of the file at path to dst. It can take as long as the
// host's kernel likes.
func (t *CPUTree) read(dst []byte, path string) ([]byte, error) {
	fd, err := t.open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return dst, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return dst, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return dst, unix.EINVAL
	}
	start := len(dst)
	for {
		if cap(dst)-len(dst) < pageSize {
			dst = append(dst, make([]byte, max(pageSize, len(dst)))...)[:len(dst)]
		}
		n, err := unix.Read(fd, dst[len(dst):cap(dst)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return dst, err
		case n == 0:
			return dst, nil
		}
		dst = dst[:len(dst)+n]
		if len(dst)-start > maxHostContent {
			return dst, unix.EFBIG
		}
	}
}
