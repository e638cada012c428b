// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// HostTree is a directory of the host's sysfs, which the mount shows at the same path:
// the files that the node table has there are the Source's, and so are those that its
// rules make; all others are the host's, read-only, to whom the host's permission bits let
// in. Only directories, regular files and symbolic links are shown, and of these what the
// rules do not hide from the caller.
//
// The host's files are reached with openat2(2) below a descriptor of the
// directory: no name, no symbolic link and no mount leads out of it. A symbolic
// link is shown as one, and it is the kernel that follows it, in the caller's
// mount namespace.
//
// It is safe for concurrent use.
type HostTree struct {
	dir  NodeID // the directory's
	root int    // O_PATH
	// salt is put before paths to make their ids: those of two trees differ.
	salt  string
	rules hostRules

	mu sync.Mutex
	// paths are those of the entries that the kernel has asked for. Nothing
	// a caller makes up gets here, only what the host has, and it is
	// bounded all the same: what was forgotten is found again.
	paths map[NodeID]string
}

// maxPaths bounds HostTree.paths, to about 8 MiB. A CPU has some 100 files.
const maxPaths = 1 << 16

// hostRules say what a turn's caller sees of a HostTree. All paths are below its
// directory, which is "." itself. The methods may block, and return the errors of
// Source.Append.
type hostRules interface {
	// hides reports whether the entry at path, or a directory that it is in, is not there.
	hides(t *Turn, path string) (bool, error)
	// filter returns which names of the directory dir are there, nil for all.
	filter(t *Turn, dir string) (func(name string) bool, error)
	// append appends the content of the file at path, unless that is the host's.
	append(dst []byte, path string, t *Turn) (out []byte, ours bool, err error)
}

// openHostTree opens the host's directory. dir is its node in the table. It needs Linux
// 5.6.
func openHostTree(path string, dir NodeID, salt string, rules hostRules) (*HostTree, error) {
	root, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	t := &HostTree{dir: dir, root: root, salt: salt, rules: rules, paths: make(map[NodeID]string)}
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
func (t *HostTree) Close() { unix.Close(t.root) }

// hostBit is set in the ids of the host's entries. The rest of such an id is made
// of the path below the directory, so that it is the same in every process that
// ever serves the mount: 15 bits of the first name's hash and 48 bits of the whole
// path's. The former lead to the part of the host's tree to look in.
const (
	hostBit  NodeID = 1 << 63
	pathBits        = 48
)

func (t *HostTree) id(path string) NodeID {
	top, _, _ := strings.Cut(path, "/")
	return hostBit | t.topHash(top)<<pathBits | NodeID(hash(t.salt+path)&(1<<pathBits-1))
}

func (t *HostTree) topHash(top string) NodeID { return NodeID(hash(t.salt+top) >> 49) }

func hash(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(sum[:])
}

// errCollision says that two entries have the same id.
var errCollision = errors.New("two entries of the host have the same id")

// remember returns the id of the entry at path.
func (t *HostTree) remember(path string) (NodeID, error) {
	id := t.id(path)
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

// known returns the path below the directory of the entry id, "." for the directory
// itself, if the kernel has asked this process for it.
func (t *HostTree) known(id NodeID) (path string, ok bool) {
	if id == t.dir {
		return ".", true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	path, ok = t.paths[id]
	return path, ok
}

// find is known for those who may take their time. It returns ESTALE if the host does not
// have the entry, or not any more. An id that is not known was given out by a former
// process: the host's tree is searched for it.
func (t *HostTree) find(id NodeID) (string, error) {
	if path, ok := t.known(id); ok {
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
func (t *HostTree) search(id NodeID) (string, error) {
	found := ""
	var walk func(path string, entries []dirent) error
	walk = func(dir string, entries []dirent) error {
		for _, e := range entries {
			if dir == "." && t.topHash(e.name) != id&^hostBit>>pathBits {
				continue
			}
			path := join(dir, e.name)
			if t.id(path) == id {
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
func (t *HostTree) open(path string, flags int) (int, error) {
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
func (t *HostTree) stat(path string) (st unix.Stat_t, err error) {
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
func (t *HostTree) statFor(path string, c Caller) (st unix.Stat_t, err error) {
	if c.UID != 0 {
		if err := t.mayReach(path, c); err != nil {
			return st, err
		}
	}
	return t.stat(path)
}

// mayReach returns EACCES where c may not search a directory on the way to path.
func (t *HostTree) mayReach(path string, c Caller) error {
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
func (t *HostTree) readlink(path string) (string, error) {
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
func (t *HostTree) read(dst []byte, path string) ([]byte, error) {
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
