package procvirt

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/held"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/loadavg"
)

// ErrCold is Append's answer without wait, where something slow would have to be
// done first: a container that is seen for the first time.
var ErrCold = errors.New("the container's files are not open yet")

// Config says how the view is made.
type Config struct {
	// Root is the directory that stands for /, "/" but in tests.
	Root string
	// Policy says whose control group stands for the container.
	Policy cgroup.Policy
	// IgnoreQuota shows all CPUs of the cpuset, however small the quota.
	IgnoreQuota bool
	// NoSwap and NoZswap show no swap and no zswap.
	NoSwap, NoZswap bool
	// HostLoad shows the host's load averages.
	HostLoad bool
	// Recheck is how long a decision about which control group stands for a
	// caller is kept while the caller's own group stays the same. Limits and
	// usage are read afresh each time, whatever it is.
	Recheck time.Duration
	// MaxFiles is how many files of control groups may be open; beyond it those
	// of some containers are closed, to be opened again when they are read.
	MaxFiles int
	// Now is the time since the host booted in nanoseconds, host.Clock's but in
	// tests.
	Now func() int64
	// Steady is the time without suspension in nanoseconds, host.Monotonic but in
	// tests.
	Steady func() int64
	Log    *slog.Logger
}

// maxSpaces bounds the pid namespaces that are remembered. Drop removes them as
// they end; this is for those whose end was missed.
const maxSpaces = 16384

// maxThreads bounds the threads that are remembered, each with a file; also of those
// that have ended, until their container has, or another takes the place.
const maxThreads = 1024

// Views makes the files of all containers. It is safe for concurrent use.
type Views struct {
	cfg       Config
	proc      string
	opener    held.Opener
	files     []File
	host      map[string]*host.File // by path
	mounts    *cgroup.Mounts
	callers   *cgroup.Callers
	fallbacks fallbacks
	scratch   sync.Pool
	loads     *loadavg.Sampler // nil where the host's load is shown
	counters  sync.Pool        // of *cgroup.ThreadCounter

	kept Kept // where accounts and loads outlive the process

	hostCPUs int // how many CPUs the host may have

	slowAfter time.Duration // defaultSlowAfter but in tests
	// hostPace is that of reading the host's own file, by index.
	hostPace []pace

	mu     sync.RWMutex // guards spaces, never held during I/O
	spaces map[uint64]*space
}

// scratch is the memory that one request works in. Nothing is read from it that
// the request has not written before.
type scratch struct {
	// buf is for the files of control groups, host for the host's file, which is
	// used until the text is made, groups for the init's membership.
	buf, host, groups []byte
}

// New finds the control groups of the host and opens its files.
func New(cfg Config) (*Views, error) {
	v := &Views{cfg: cfg, proc: filepath.Join(cfg.Root, "proc"), spaces: map[uint64]*space{}, slowAfter: defaultSlowAfter}
	v.fallbacks.log = cfg.Log
	v.scratch.New = func() any {
		return &scratch{buf: make([]byte, 0, 8192), host: make([]byte, 0, 8192), groups: make([]byte, 0, 1024)}
	}
	v.counters.New = func() any { return cgroup.NewThreadCounter(v.proc) }
	if !cfg.HostLoad {
		v.loads = loadavg.NewSampler(cfg.Steady)
	}
	v.callers = cgroup.NewCallers(&v.opener, v.proc, min(max(cfg.MaxFiles/16, 1), maxThreads))
	var err error
	if v.mounts, err = cgroup.Discover(cfg.Root); err != nil {
		return nil, err
	}
	if err := v.openHost(); err != nil {
		v.closeHost()
		return nil, err
	}
	v.hostCPUs = possibleCPUs(cfg.Root)
	return v, nil
}

// openHost opens the host's own files.
func (v *Views) openHost() error {
	v.host = map[string]*host.File{}
	all := table()
	for i := range all {
		f, err := host.Open(&v.opener, v.cfg.Root, all[i].host)
		if err != nil {
			return err
		}
		v.host[all[i].Path] = f
	}
	v.files = all
	v.hostPace = make([]pace, len(all))
	v.fallbacks.counts = make([][numReasons]atomic.Uint64, len(all))
	return nil
}

func (v *Views) closeHost() {
	for _, f := range v.host {
		f.Close()
	}
}

// readHost returns the text of the host's own file at path.
func (v *Views) readHost(path string, buf []byte) ([]byte, error) {
	text, err := v.host[path].Read(buf)
	if err == unix.ENOENT {
		err = fmt.Errorf("open %s: %w", filepath.Join(v.cfg.Root, path), err)
	}
	return text, err
}

// Files returns the files that are served on this host.
func (v *Views) Files() []*File {
	var files []*File
	for i := range v.files {
		if f := &v.files[i]; !f.fromHost || v.host[f.Path] != nil {
			files = append(files, f)
		}
	}
	return files
}

// File returns the file with the given node, or nil.
func (v *Views) File(node uint64) *File {
	for i := range v.files {
		if f := &v.files[i]; f.Node == node {
			return f
		}
	}
	return nil
}

// all returns the spaces there are now, by their namespaces.
func (v *Views) all() map[uint64]*space {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return maps.Clone(v.spaces)
}

// Close closes all files. No other call may run beside it or follow it.
func (v *Views) Close() {
	v.loads.Close()
	for ns := range v.spaces {
		v.Drop(ns)
	}
	v.callers.Close()
	v.closeHost()
}

// Callers reads the text that Subject.Groups wants. It forgets with Drop.
func (v *Views) Callers() *cgroup.Callers { return v.callers }

// OpenFiles tells how many files are held open.
func (v *Views) OpenFiles() int { return v.opener.Count() }

// Subject says whose view is wanted.
type Subject struct {
	// NS is the inode of the pid namespace, and ID what tells it from others that
	// had the number before, where the kernel says (NS_GET_ID); else 0.
	NS, ID uint64
	// Init is the init of it, as a pid of the host.
	Init int
	// Host says that it is the daemon's own pid namespace. The init is then not
	// the caller's, and only the caller's own group counts.
	Host bool
	// Groups is the text of the caller's /proc/PID/cgroup.
	Groups []byte
}

// Append appends file f as the subject sees it. Where the subject has no view of
// its own, that is the host's file, and a counted Reason.
//
// Without wait it answers ErrCold, with dst as it was, rather than do anything
// slow. With wait it opens what has to be opened first.
//
// It makes no allocation once the container's files are open and dst is large
// enough.
func (v *Views) Append(dst []byte, f *File, s *Subject, wait bool) ([]byte, error) {
	x := v.scratch.Get().(*scratch)
	defer v.scratch.Put(x)
	text, err := v.content(dst, f, s, x, wait)
	switch {
	case err == nil:
		return text, nil
	case err == ErrCold:
		return dst, ErrCold
	}
	return v.AppendHost(dst, f, reasonOf(err), err, wait)
}

// content appends what s sees of f.
func (v *Views) content(dst []byte, f *File, s *Subject, x *scratch, wait bool) ([]byte, error) {
	// Each round of the slow way makes what the quick way missed. What it makes
	// can be gone again by then, but not over and over.
	for range 4 {
		text, err := v.warmContent(dst, f, s, x, wait)
		if err == nil || !errors.Is(err, ErrCold) && !errors.Is(err, unix.ENODEV) {
			return text, err
		}
		if !wait {
			return dst, ErrCold
		}
		if err := v.prepare(f, s, errors.Is(err, unix.ENODEV)); err != nil {
			return dst, err
		}
	}
	return dst, fmt.Errorf("control groups of pid namespace %d keep changing: %w", s.NS, RemovedCgroup)
}

// warmContent is content from files that are open already. It returns ErrCold if
// they are not.
func (v *Views) warmContent(dst []byte, f *File, s *Subject, x *scratch, wait bool) ([]byte, error) {
	v.mu.RLock()
	sp := v.spaces[s.NS]
	v.mu.RUnlock()
	if sp == nil || !sp.is(s) {
		return dst, ErrCold
	}
	if wait {
		sp.mu.RLock()
	} else if !sp.mu.TryRLock() {
		return dst, ErrCold
	}
	defer sp.mu.RUnlock()
	c := sp.find(v, s.Groups, x)
	if c == nil {
		return dst, ErrCold
	}
	return c.content(dst, f, x, wait)
}

// prepare opens what f needs. stale says that what is open is of a group that
// was removed.
func (v *Views) prepare(f *File, s *Subject, stale bool) error {
	sp, err := v.space(s)
	if err != nil {
		return err
	}
	defer v.trim(sp)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.dropped {
		return nil // a new one is made in the next round
	}
	m, err := sp.decide(v, s.Groups)
	if err != nil {
		return err
	}
	if stale {
		m.container.forget(sp)
	}
	sp.closeOthers(m.container)
	err = m.container.open(f)
	m.until = v.cfg.Now() + int64(v.recheck(m.container))
	return err
}

// recheck is how long a decision for c is kept.
func (v *Views) recheck(c *container) time.Duration {
	if c.incomplete() {
		return min(v.cfg.Recheck, incompleteRecheck)
	}
	return v.cfg.Recheck
}

// space returns what is known of the subject's pid namespace, new where nothing
// is.
func (v *Views) space(s *Subject) (*space, error) {
	v.mu.RLock()
	sp := v.spaces[s.NS]
	v.mu.RUnlock()
	if sp != nil && sp.is(s) {
		return sp, nil
	}
	started, err := host.StartTime(v.proc, s.Init)
	if err != nil {
		return nil, fmt.Errorf("init of pid namespace %d: %w: %w", s.NS, NoInit, err)
	}
	fresh := &space{
		id: s.ID, init: s.Init, started: started, host: s.Host,
		callers: map[string]*membership{}, containers: map[string]*container{},
	}
	v.mu.RLock()
	full := len(v.spaces) >= maxSpaces
	v.mu.RUnlock()
	if full {
		v.sweep()
	}
	sp, old := v.insert(s.NS, fresh)
	if old != nil {
		old.drop()
	}
	return sp, nil
}

// insert puts fresh in its place, unless another goroutine came first. It returns
// the space that is there now, and one that had to go, if any.
func (v *Views) insert(ns uint64, fresh *space) (now, old *space) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old = v.spaces[ns]
	if old != nil && old.init == fresh.init && old.id == fresh.id {
		return old, nil
	}
	if old == nil && len(v.spaces) >= maxSpaces {
		for ns, o := range v.spaces {
			if !o.host {
				old = o
				delete(v.spaces, ns)
				break
			}
		}
	}
	v.spaces[ns] = fresh
	return fresh, old
}

// Drop forgets a pid namespace whose init is gone, and closes its files.
func (v *Views) Drop(ns uint64) {
	v.callers.Drop(ns)
	v.mu.Lock()
	sp := v.spaces[ns]
	delete(v.spaces, ns)
	v.mu.Unlock()
	if sp != nil {
		sp.drop()
	}
}

// Release closes the files of a pid namespace that nobody has asked about for a
// while. What was shown is kept, since its containers go on.
func (v *Views) Release(ns uint64) {
	v.callers.Drop(ns)
	v.mu.RLock()
	sp := v.spaces[ns]
	v.mu.RUnlock()
	if sp != nil {
		sp.release()
	}
}

// sweep drops the spaces whose init is gone, where Drop was not told.
func (v *Views) sweep() {
	for ns, sp := range v.all() {
		if started, err := host.StartTime(v.proc, sp.init); err != nil || started != sp.started {
			v.mu.Lock()
			if v.spaces[ns] == sp {
				delete(v.spaces, ns)
			}
			v.mu.Unlock()
			sp.drop()
		}
	}
}

// trim closes files of other containers where too many are open: of a few, taken at
// random. Where all of them read in turn, those that have not read for longest would
// be just those that read next.
func (v *Views) trim(keep *space) {
	if v.opener.Count() <= v.cfg.MaxFiles {
		return
	}
	v.mu.RLock()
	all := make([]*space, 0, len(v.spaces))
	for _, sp := range v.spaces {
		if sp != keep {
			all = append(all, sp)
		}
	}
	v.mu.RUnlock()
	for _, sp := range all {
		if v.opener.Count() <= v.cfg.MaxFiles*15/16 {
			return
		}
		if sp.mu.TryLock() {
			for _, c := range sp.containers {
				c.close()
			}
			sp.mu.Unlock()
		}
	}
}
