// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/initpid"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/held"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/loadavg"
)

// Config is what New needs.
type Config struct {
	// Root is the directory that stands for /, "/" but in tests.
	Root string
	// InitPID is how the init of a pid namespace is found, and MaxInits how many
	// are kept.
	InitPID  initpid.Method
	MaxInits int
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
	// MaxFiles is how many files of control groups may be open. Beyond it those
	// of some containers are closed, to be opened again when they are read.
	MaxFiles int
	// MaxRate is how many contents a second an outermost container may read before its
	// reads are delayed. 0 is any number.
	MaxRate int
	// Ended, if not nil, is called when a pid namespace has ended and was forgotten.
	Ended func()
	// Now is CLOCK_BOOTTIME and Steady CLOCK_MONOTONIC, in nanoseconds. Nil is the
	// machine's own.
	Now, Steady func() int64
	Log         *slog.Logger
}

// Turn is the request that content is made for.
type Turn interface {
	// Block must be called before work that may block or take long. owner is the
	// outermost container, 0 if it is not known. The request must be answered with
	// the error, if there is one.
	Block(owner uint64) error
	// SetOwner says which outermost container the request is accounted to.
	SetOwner(owner uint64)
	// Delay waits for d, because the owner has read too much. The request must be
	// answered with the error, if there is one.
	Delay(owner uint64, d time.Duration) error
}

// Registry finds the container of a caller. It alone knows which pid namespaces and
// control groups there are, which of their files are open, and what of them outlives
// the process. It is safe for concurrent use.
type Registry struct {
	cfg      Config
	proc     string
	opener   held.Opener
	files    []File
	possible *File                 // of Container.LastCPU
	offline  *File                 // of Container.Offline
	host     map[string]*host.File // by path
	cpuinfo  atomic.Pointer[cpuinfoText]
	mounts   *cgroup.Mounts
	inits    inits
	callers  *cgroup.Callers
	events   events
	requests sync.Pool // of *Container
	loads    *loadavg.Sampler
	counters sync.Pool // of *threadCounter
	tables   tables
	disabled atomic.Bool
	noPolicy policy
	hostCPUs int // how many CPUs the host may have
	// hugePageSize is that of transparent huge pages, in bytes, 0 if there are none.
	hugePageSize uint64
	// stacked has the major numbers of the devices whose I/O other devices do.
	stacked   map[uint32]bool
	slowAfter time.Duration // defaultSlowAfter but in tests
	// bootOffset is that of the daemon's own time namespace.
	bootOffset time.Duration
	// shiftsBtime is set if the kernel shifts btime and start times by such an offset.
	shiftsBtime bool
	// hostPace is that of reading the host's own file, by index.
	hostPace []pace
	counts   counts
	delaying atomic.Int64 // requests that wait because of MaxRate
	began    time.Time    // when it was made

	mu     sync.RWMutex // guards spaces and owners; never held during I/O
	spaces map[uint64]*space
	owners map[uint64]*owner
}

// inits finds the inits of pid namespaces, as initpid.Resolver does.
type inits interface {
	Lookup(pid int) (init initpid.Init, ok bool, err error)
	LookupNS(ns uint64) (init initpid.Init, ok bool, err error)
	Resolve(pid int) (initpid.Init, error)
	Outermost(pid int) (uint64, error)
	Stats() initpid.Stats
	Close()
}

// maxThreads bounds the threads whose /proc/PID/cgroup is kept open.
const maxThreads = 1024

// New finds the control groups of the host and opens its files.
func New(cfg Config) (*Registry, error) {
	return newRegistry(cfg, func(r *Registry) (inits, error) {
		return initpid.New(initpid.Config{
			Method: cfg.InitPID, TTL: cfg.Recheck, Max: cfg.MaxInits, Proc: r.proc,
			Gone: r.drop, Idle: r.release, Log: cfg.Log,
		})
	})
}

func newRegistry(cfg Config, newInits func(*Registry) (inits, error)) (_ *Registry, err error) {
	if cfg.Now == nil {
		cfg.Now = host.NewClock().Now
	}
	if cfg.Steady == nil {
		cfg.Steady = host.Monotonic()
	}
	r := &Registry{
		cfg: cfg, proc: filepath.Join(cfg.Root, "proc"), slowAfter: defaultSlowAfter, began: time.Now(),
		spaces: map[uint64]*space{}, owners: map[uint64]*owner{},
	}
	r.hostCPUs = possibleCPUs(cfg.Root)
	if r.bootOffset, err = host.BootOffset(r.proc, "self"); err != nil {
		return nil, err
	}
	r.shiftsBtime = host.ShiftsBtime()
	r.hugePageSize = transparentHugePageSize(cfg.Root)
	if r.stacked, err = host.StackedMajors(r.proc); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	r.events.log = cfg.Log
	r.requests.New = func() any { return newContainer(r) }
	r.counters.New = func() any { return &threadCounter{ThreadCounter: cgroup.NewThreadCounter(r.proc)} }
	r.loads = loadavg.NewSampler(cfg.Steady)
	r.callers = cgroup.NewCallers(&r.opener, r.proc, min(max(cfg.MaxFiles/16, 1), maxThreads), func(pid int) (uint64, bool) {
		init, ok, err := r.inits.Lookup(pid)
		return init.NS, ok && err == nil
	})
	if r.mounts, err = cgroup.Discover(cfg.Root); err != nil {
		return nil, err
	}
	if err = r.openHost(); err == nil {
		r.inits, err = newInits(r)
	}
	if err != nil {
		r.closeHost()
		return nil, err
	}
	return r, nil
}

// openHost opens the host's own files.
func (r *Registry) openHost() error {
	r.host = map[string]*host.File{}
	r.files = table()
	for i := range r.files {
		f, err := host.Open(&r.opener, r.cfg.Root, r.files[i].host)
		if err != nil {
			return err
		}
		r.host[r.files[i].Path] = f
	}
	r.possible, r.offline = r.File(possibleNode), r.File(offlineNode)
	r.hostPace = make([]pace, len(r.files))
	r.events.init(len(r.files))
	return nil
}

func (r *Registry) closeHost() {
	for _, f := range r.host {
		f.Close()
	}
}

// readHost returns the text of the host's own file at path.
func (r *Registry) readHost(path string, buf []byte) ([]byte, error) {
	text, err := r.host[path].Read(buf)
	if err == unix.ENOENT {
		err = fmt.Errorf("open %s: %w", filepath.Join(r.cfg.Root, path), err)
	}
	return text, err
}

// Close closes all files. What outlives the process stays. No other call may run at the
// same time or follow.
func (r *Registry) Close() {
	r.inits.Close()
	r.loads.Close()
	for _, sp := range r.spaces {
		sp.release()
	}
	r.callers.Close()
	r.closeHost()
}

// Files returns the files that are served on this host.
func (r *Registry) Files() []*File {
	var files []*File
	for i := range r.files {
		if f := &r.files[i]; !f.fromHost || r.host[f.Path] != nil {
			files = append(files, f)
		}
	}
	return files
}

// File returns the file with the given node, nil if there is none.
func (r *Registry) File(node uint64) *File {
	for i := range r.files {
		if f := &r.files[i]; f.Node == node {
			return f
		}
	}
	return nil
}

// OpenFiles returns how many files are open.
func (r *Registry) OpenFiles() int { return r.opener.Count() }

// Toggle switches between the containers' files and, for everybody, the host's. It
// reports whether the containers' are shown now. Not safe for concurrent use.
func (r *Registry) Toggle() (on bool) {
	on = r.disabled.Load()
	r.disabled.Store(!on)
	return on
}

// Owner returns the outermost container that thread pid is in, 0 if it cannot be told.
// It may make system calls.
func (r *Registry) Owner(pid int) uint64 {
	owner, err := r.inits.Outermost(pid)
	if err != nil {
		return 0
	}
	return owner
}

// Acquire returns the container that thread pid is in, for the request t. The caller
// must call Release.
//
// An error that wraps a Reason says why there is none; the host's file stands in then
// (AppendHost). With any other error the request must fail.
func (r *Registry) Acquire(pid int, t Turn) (*Container, error) {
	if r.disabled.Load() {
		return nil, SwitchedOff
	}
	return r.acquire(pid, t)
}

// acquire is Acquire whether virtualisation is on or not.
func (r *Registry) acquire(pid int, t Turn) (*Container, error) {
	c := r.requests.Get().(*Container)
	c.turn, c.pid, c.now = t, pid, r.cfg.Now()
	err := c.identify()
	if err == nil {
		t.SetOwner(c.init.Owner)
		err = c.bind()
	}
	if err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

// withRoom calls do, which opens files for owner o, nil if that is not known. If this
// process has no descriptor left, files of other containers are closed, and do is
// called once more. Then o is kept to its share.
func (r *Registry) withRoom(o *owner, do func() error) error {
	err := do()
	if noDescriptors(err) && r.trim(o, r.opener.Count()*3/4) {
		err = do()
	}
	if o != nil {
		r.trimOwner(o)
	}
	return err
}

// noDescriptors reports whether err says that this process, or the host, has no
// descriptor left.
func noDescriptors(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}
