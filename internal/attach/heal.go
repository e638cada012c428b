package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"vprocfs/internal/mountinfo"
)

// Bounds of Heal, for the sake of a host that a hostile container has filled.
const (
	// maxItems are the dead mounts that are replaced for one root of a namespace
	// at a time. There are less than 20 files.
	maxItems = 256
	// atOnce are the helpers that run at a time. Each costs a few milliseconds,
	// or its whole patience where it hangs.
	atOnce = 8
	// maxHung is how often a container's helper may hang before the rest of it
	// is left for the next time.
	maxHung = 1
)

// Namespace tells what Heal has done in one mount namespace.
type Namespace struct {
	ID  uint64 // its inode, as in mnt:[4026531841]
	PID int    // a process in it
	// Results are those of the dead mounts.
	Results []Result
	// Err is for what concerns the namespace as a whole.
	Err error
}

// Heal replaces every dead mount of our types (and LXCFS's) over a file of procfs
// or sysfs by the file of the living daemon at dir, in all mount namespaces but
// those of this process and of the host's init. With dryRun it only says what it
// would do. It returns the namespaces that it found something in, and calls each
// with them as they are done, one at a time. To do it again changes nothing.
//
// Mounts of a daemon that is slow, stopped or about to be replaced are not dead.
func Heal(ctx context.Context, dir string, dryRun bool, each func(Namespace)) error {
	found, err := scan(hostProc)
	if err != nil || len(found) == 0 {
		return err
	}
	if err := probe(ctx, filepath.Join(dir, "proc/uptime")); err != nil {
		return err
	}
	// So that healthy containers cost no helper.
	alive, err := hostMounts(ctx)
	if err != nil {
		return err
	}
	for i := range found {
		found[i].drop(alive)
	}
	found = slices.DeleteFunc(found, func(s suspect) bool { return len(s.items) == 0 && s.err == nil })
	var mu sync.Mutex
	atMost(found, func(s suspect) {
		n := s.heal(ctx, dir, dryRun)
		if n.Err == nil && len(n.Results) == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		each(n)
	})
	return ctx.Err()
}

// suspect is a root of a mount namespace with mounts of our types.
type suspect struct {
	ns    uint64
	pid   int
	items []item
	devs  []uint64 // of the items' superblocks
	err   error
}

// drop leaves out the items of these superblocks.
func (s *suspect) drop(devs map[uint64]bool) {
	var items []item
	var left []uint64
	for i, dev := range s.devs {
		if !devs[dev] {
			items, left = append(items, s.items[i]), append(left, dev)
		}
	}
	s.items, s.devs = items, left
}

// hostMounts returns the superblocks of our types that are mounted in the
// namespace of this process, whose daemons are not dead.
func hostMounts(ctx context.Context) (map[uint64]bool, error) {
	mounts, err := mountinfo.Load(hostProc + "/self/mountinfo")
	if err != nil {
		return nil, err
	}
	points := make(map[uint64]string) // by superblock
	for _, m := range mounts {
		if slices.Contains(types, m.FSType) {
			points[m.Dev] = m.Point
		}
	}
	alive := make(map[uint64]bool)
	var mu sync.Mutex
	atMost(slices.Collect(maps.Keys(points)), func(dev uint64) {
		if err := probe(ctx, points[dev]); err == nil || errors.Is(err, errHung) {
			mu.Lock()
			defer mu.Unlock()
			alive[dev] = true
		}
	})
	return alive, nil
}

// atMost calls f with each of all, atOnce at a time, and returns when all are
// done.
func atMost[T any](all []T, f func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, one := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(one)
		})
	}
	wg.Wait()
}

// scan finds the suspects among all processes. Of those that have the mount
// namespace and the root directory in common it asks one.
func scan(proc string) ([]suspect, error) {
	self, err := namespaceOf(proc, "self")
	if err != nil {
		return nil, err
	}
	init, err := namespaceOf(proc, "1")
	if err != nil && !errors.Is(err, os.ErrPermission) { // it may have more privileges than we have
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
	seen := make(map[view]bool)
	var found []suspect
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		ns, err := namespaceOf(proc, name)
		if err != nil || ns == self || ns == init {
			continue // a process that is gone has none
		}
		// Not a walk: the kernel prints the name that the root has.
		root, err := os.Readlink(filepath.Join(proc, name, "root"))
		if err != nil || seen[view{ns, root}] {
			continue
		}
		if s, ok := look(proc, pid, ns); ok {
			seen[view{ns, root}] = true
			if len(s.items) > 0 || s.err != nil {
				found = append(found, s)
			}
		}
	}
	slices.SortFunc(found, func(a, b suspect) int { return a.pid - b.pid })
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
		return 0, fmt.Errorf("%s: odd link %q", path, link)
	}
	return n, nil
}

// look reads the mounts of a process. It is not ok if the process is gone.
func look(proc string, pid int, ns uint64) (s suspect, ok bool) {
	s = suspect{ns: ns, pid: pid}
	text, err := mountinfo.Read(filepath.Join(proc, strconv.Itoa(pid), "mountinfo"))
	if err != nil {
		s.err = err
		return s, gone(err) != errGone
	}
	if !mentions(text) {
		return s, true
	}
	mounts, err := mountinfo.Parse(text)
	if err != nil {
		s.err = err
		return s, true
	}
	t := newTable(mounts)
	for _, m := range mounts {
		path, ok := t.candidate(m)
		if !ok {
			continue
		}
		if len(s.items) == maxItems {
			s.err = fmt.Errorf("more than %d files: the rest is left for the next time", maxItems)
			break
		}
		s.items = append(s.items, item{Path: path, Point: m.Point, Mount: m.ID})
		s.devs = append(s.devs, m.Dev)
	}
	return s, true
}

// heal has helpers replace what is dead.
func (s *suspect) heal(ctx context.Context, dir string, dryRun bool) Namespace {
	n := Namespace{ID: s.ns, PID: s.pid, Err: s.err}
	for hung := 0; len(s.items) > 0; {
		results, err := run(ctx, job{PID: s.pid, NS: s.ns, Dir: dir, DryRun: dryRun, Items: s.items})
		n.Results = append(n.Results, slices.DeleteFunc(results, func(r Result) bool { return r.State == Gone })...)
		if err == nil || errors.Is(err, errGone) {
			break // a container that ends is no failure
		}
		done := len(results)
		if !errors.Is(err, errHung) || done == len(s.items) || hung == maxHung {
			n.Err = errors.Join(n.Err, err)
			break
		}
		// Whoever serves that mount does not answer, and is not dead, as far as
		// can be told. The others may be of another daemon.
		hung++
		n.Err = fmt.Errorf("%s: %w", s.items[done].Point, err)
		s.items, s.devs = s.items[done:], s.devs[done:]
		s.drop(map[uint64]bool{s.devs[0]: true})
	}
	return n
}
