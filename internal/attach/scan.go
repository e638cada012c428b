package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"vprocfs/internal/mountinfo"
)

const (
	// maxItems is how many dead mounts of one suspect are replaced by one Heal.
	// vprocfs serves less than 20 files.
	maxItems = 256
	// maxPIDs is how many processes of a suspect are remembered, in case some end.
	maxPIDs = 4
)

// suspect is a root directory in a mount namespace, which may have dead mounts
// below it.
type suspect struct {
	ns    uint64 // inode of the mount namespace
	pids  []int  // processes that have this namespace and root
	owner uint64 // outermost pid namespace; 0 if unknown
	items []item // mounts of our types that may be dead
	// results and err are those of the helpers so far.
	results []Result
	err     error
}

// drop removes the items whose superblock is in devs.
func (s *suspect) drop(devs map[uint64]bool) {
	s.items = slices.DeleteFunc(s.items, func(it item) bool { return devs[it.dev] })
}

// suspects returns all pairs of mount namespace and root directory that processes
// have, but those in the mount namespaces of this process and of the host's init.
func suspects(proc string, owner func(pid int) (uint64, error)) ([]*suspect, error) {
	self, err := namespaceOf(proc, "self")
	if err != nil {
		return nil, err
	}
	init, err := namespaceOf(proc, "1")
	if err != nil && !errors.Is(err, os.ErrPermission) { // init may have more privileges than this process
		return nil, err
	}
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", proc, err)
	}
	type view struct {
		ns   uint64
		root string
	}
	seen := make(map[view]*suspect)
	var found []*suspect
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		ns, err := namespaceOf(proc, name)
		if err != nil || ns == self || ns == init {
			continue // an ended process has no namespace
		}
		// The kernel prints the path of the root directory. It does not walk it.
		root, err := os.Readlink(filepath.Join(proc, name, "root"))
		if err != nil {
			continue
		}
		s := seen[view{ns, root}]
		if s == nil {
			s = &suspect{ns: ns}
			if o, err := owner(pid); err == nil {
				s.owner = o
			}
			seen[view{ns, root}], found = s, append(found, s)
		}
		if len(s.pids) < maxPIDs {
			s.pids = append(s.pids, pid)
		}
	}
	slices.SortFunc(found, func(a, b *suspect) int { return a.pids[0] - b.pids[0] })
	return found, nil
}

// namespaceOf returns the inode of a process's mount namespace.
func namespaceOf(proc, pid string) (uint64, error) {
	path := filepath.Join(proc, pid, "ns/mnt")
	link, err := os.Readlink(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "mnt:["), "]"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: unexpected link %q", path, link)
	}
	return n, nil
}

// look finds the items of s. One mountinfo may have 64 MiB, so mu lets one look at
// a time read its own.
func (s *suspect) look(proc string, mu *sync.Mutex) {
	mu.Lock()
	defer mu.Unlock()
	for len(s.pids) > 0 {
		err := s.readMounts(filepath.Join(proc, strconv.Itoa(s.pids[0]), "mountinfo"))
		if gone(err) != errGone {
			s.err = err
			return
		}
		s.pids = s.pids[1:]
	}
}

// readMounts makes items of the mounts of our types in a mountinfo.
func (s *suspect) readMounts(path string) error {
	text, err := mountinfo.Read(path)
	if err != nil || !mentions(text) {
		return err
	}
	mounts, err := mountinfo.Parse(text)
	if err != nil {
		return err
	}
	t := newTable(mounts)
	for _, m := range mounts {
		file, ok := t.candidate(m)
		if !ok {
			continue
		}
		if len(s.items) == maxItems {
			return fmt.Errorf("more than %d files: the rest is left for the next time", maxItems)
		}
		s.items = append(s.items, item{Path: file, Point: m.Point, Mount: m.ID, dev: m.Dev})
	}
	return nil
}
