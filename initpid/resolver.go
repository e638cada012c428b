// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/cache"
)

const (
	defaultTTL      = time.Minute
	defaultErrorTTL = time.Second
	defaultMax      = 4096
	defaultForks    = 4

	// An owner may have 1/sharePart of the entries, but always minShare: a system
	// container may have a pid namespace for each container in it.
	sharePart, minShare = 8, 32

	// helperTimeout is how long a helper may take. It needs some milliseconds. On
	// a machine short of CPU and memory, more than two seconds were seen. A caller
	// whose helper times out gets the host's numbers, which is worse than a wait.
	helperTimeout = 10 * time.Second

	// maxTries is how often an init is looked for if its pid turns out to be
	// another process's. More than once in a row takes an attacker.
	maxTries = 4
)

// Config is the configuration of a Resolver. The zero value is ready to use.
type Config struct {
	Method   Method        // Auto, Ioctl, Parents or Fork
	TTL      time.Duration // how long an answer is used before it is verified again; 0: 1 minute
	ErrorTTL time.Duration // how long a failure is kept; 0: 1 second
	Max      int           // most namespaces kept, two descriptors each; 0: 4096
	MaxForks int           // most helpers at once; 0: 4
	Proc     string        // a procfs of our own pid namespace; "": /proc

	// Gone, if not nil, is called with the inode number of each namespace that
	// was resolved and whose init has died. Idle is called with that of each
	// namespace that was dropped to make room. The kernel does not use the number
	// for another namespace before they return. A Resolve of the same namespace
	// may run at the same time. They must not call Close.
	Gone, Idle func(ns uint64)

	Log *slog.Logger // nil: none
}

// Resolver finds inits and caches them; New makes one. All methods but Close are
// safe for concurrent use. It has no wake-ups while nobody asks and no init dies.
type Resolver struct {
	proc     *procfs
	host     Init // the answer for every caller in our own namespace
	hostfd   int  // our own namespace; it keeps the inode number ours
	find     finder
	by       Method // Ioctl, Parents or Fork
	forks    *forker
	cache    *cache.Cache[uint64, *entry]
	ancestry *ancestry
	watch    *watcher
	gone     func(uint64)
	idle     func(uint64)
	log      *slog.Logger
	closed   atomic.Bool
	counts   counts

	timeout time.Duration // helperTimeout; longer in tests
}

// New makes a Resolver. It returns ErrUnsupported, with the oldest kernel that
// would do, if the kernel lacks something: Method Ioctl needs Linux 6.11, and
// pidfds, which all methods need, 5.3.
func New(conf Config) (_ *Resolver, err error) {
	if conf.Log == nil {
		conf.Log = slog.New(slog.DiscardHandler)
	}
	if conf.Proc == "" {
		conf.Proc = "/proc"
	}
	r := &Resolver{hostfd: -1, log: conf.Log, gone: conf.Gone, idle: conf.Idle, timeout: helperTimeout}
	defer func() {
		if err != nil {
			r.closeFDs()
			err = fmt.Errorf("init pid resolver: %w", err)
		}
	}()

	if r.proc, err = openProcfs(conf.Proc); err != nil {
		return nil, err
	}
	if err = probePidfd(os.Getpid()); err != nil {
		return nil, err
	}
	var ns uint64
	if r.hostfd, ns, err = r.proc.open(os.Getpid()); err != nil {
		return nil, err
	}
	r.host = Init{PID: 1, NS: ns, ID: namespaceID(r.hostfd), Owner: ns, By: Host, Host: true}
	r.ancestry = newAncestry(r.host)

	if r.forks, err = newForker(withDefault(conf.MaxForks, defaultForks)); err != nil {
		return nil, err
	}
	if err = r.choose(conf.Method); err != nil {
		return nil, err
	}
	if r.watch, err = newWatcher(r.died); err != nil {
		return nil, err
	}
	most := r.room(withDefault(conf.Max, defaultMax))
	r.cache = cache.New(cache.Config[uint64, *entry]{
		TTL:      withDefault(conf.TTL, defaultTTL),
		ErrorTTL: withDefault(conf.ErrorTTL, defaultErrorTTL),
		Max:      most,
		Share:    max(most/sharePart, minShare),
		Owner:    func(e *entry) uint64 { return e.init.Owner },
		Transient: func(err error) bool {
			// The caller may make room, and ask again.
			return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
		},
		Evicted: r.evicted,
	})
	return r, nil
}

func withDefault[T int | time.Duration](v, byDefault T) T {
	if v == 0 {
		return byDefault
	}
	return v
}

// choose sets the finder.
func (r *Resolver) choose(m Method) error {
	err := probeIoctl(r.hostfd)
	switch {
	case m == Ioctl || m == Auto && err == nil:
		r.find, r.by = findIoctl, Ioctl
		return err
	case m == Parents || m == Auto:
		r.find, r.by = r.findParents, Parents
		r.log.Debug("init pids are found among the parents, and by fork", "ioctl", err)
		return nil
	case m == Fork:
		r.find, r.by = r.findFork, Fork
		return nil
	}
	return fmt.Errorf("method %v cannot be asked for", m)
}

// room returns how many of n entries may be kept: at two descriptors each, they
// may use half of those that this process may open.
func (r *Resolver) room(n int) int {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return n
	}
	if most := lim.Cur / 4; uint64(n) > most {
		r.log.Warn("fewer pid namespaces are kept: the limit of open files is low", "wanted", n, "kept", most, "nofile", lim.Cur)
		return int(most)
	}
	return n
}

// Lookup returns the init of pid's namespace if it is cached. If it is not, ok is
// false and err is nil: Resolve finds it. A failure that is cached, or of Lookup
// itself, is returned as err. Lookup makes one system call, does not block, and does
// not allocate if it finds the init.
//
// pid is the id of any thread, in our own pid namespace.
func (r *Resolver) Lookup(pid int) (init Init, ok bool, err error) {
	if r.closed.Load() {
		return Init{}, true, ErrClosed
	}
	ns, err := r.proc.namespace(pid)
	if err != nil {
		return Init{}, true, err
	}
	return r.LookupNS(ns)
}

// LookupNS is Lookup by the inode number of the namespace of a living caller. It
// makes no system call.
func (r *Resolver) LookupNS(ns uint64) (init Init, ok bool, err error) {
	if ns == r.host.NS {
		r.counts.found[Host].Add(1)
		return r.host, true, nil
	}
	if r.closed.Load() {
		return Init{}, true, ErrClosed
	}
	e, ok, err := r.cache.Get(ns)
	switch {
	case err != nil:
		r.counts.failed[Cache].Add(1)
		return Init{NS: ns}, true, err
	case !ok, e.dead.Load():
		// A zombie can ask, or be asked about: Resolve returns the error.
		return Init{NS: ns}, false, nil
	}
	r.counts.found[Cache].Add(1)
	init = e.init
	init.By = Cache
	return init, true, nil
}

// Resolve returns the init of pid's namespace, and finds it if it is not cached.
// Goroutines that ask for the same namespace at the same time share one resolution.
// Resolve may block: a helper process may take 10 s, and 20 s to get its turn.
func (r *Resolver) Resolve(pid int) (Init, error) {
	if init, ok, err := r.Lookup(pid); ok {
		return init, err
	}
	nsfd, ns, err := r.proc.open(pid)
	if err != nil {
		return Init{}, err
	}
	if ns == r.host.NS { // the pid has become another process's since the look-up
		unix.Close(nsfd)
		return r.host, nil
	}
	ours, renewed := true, false
	defer func() {
		if ours {
			unix.Close(nsfd)
		}
	}()
	e, err := r.cache.Do(ns, func(stale *entry, ok bool) (*entry, error) {
		// A namespace never gets another init. So an answer that can be verified
		// need not be found again: a container does not cost a fork each minute,
		// and a helper that fails does not end a good answer.
		if ok && !stale.dead.Load() && r.proc.reverify(stale.pidfd, stale.init.PID, ns) == nil {
			renewed = true
			return stale, nil
		}
		ours = false
		return r.fill(pid, nsfd, ns)
	})
	switch {
	case errors.Is(err, cache.ErrClosed):
		return Init{}, ErrClosed
	case err != nil:
		return Init{NS: ns}, err
	case e.dead.Load():
		// The init died before the cache had the entry, so died did not find it.
		r.cache.Delete(ns, e)
		return Init{NS: ns}, fmt.Errorf("process %d: %w", e.init.PID, ErrNoInit)
	}
	init := e.init
	if renewed {
		r.counts.renewed.Add(1)
		init.By = Cache
	}
	return init, nil
}

// Outermost returns the inode number of the outermost pid namespace below our own
// that pid is in, or of our own if pid is in that. It is the same for all pid
// namespaces that a container makes. It makes one system call if the init of pid's
// namespace is cached, and a few for a new namespace, however deep it is nested. It
// does not block.
//
// On a kernel without NS_GET_ID (before Linux 6.18) the answer may be that of a
// namespace that ended less than a second ago. So it is fit for accounting only.
func (r *Resolver) Outermost(pid int) (ns uint64, err error) {
	if init, ok, err := r.Lookup(pid); ok && err == nil {
		return init.Owner, nil
	}
	nsfd, ns, err := r.proc.open(pid)
	if err != nil {
		return 0, err
	}
	defer unix.Close(nsfd)
	return r.ancestry.outermost(nsfd, ns)
}

// fill resolves the namespace nsfd of the thread caller. The entry owns nsfd and is
// never nil.
func (r *Resolver) fill(caller, nsfd int, ns uint64) (*entry, error) {
	e, err := r.resolve(caller, nsfd, ns)
	if err != nil {
		r.counts.failed[r.by].Add(1)
	} else {
		r.counts.found[e.init.By].Add(1)
	}
	return e, err
}

func (r *Resolver) resolve(caller, nsfd int, ns uint64) (*entry, error) {
	e := &entry{nsfd: nsfd, pidfd: -1}
	owner, err := r.ancestry.certain(nsfd, ns)
	if err != nil {
		return e, err
	}
	for try := 1; ; try++ {
		pid, by, err := r.find(caller, nsfd, ns)
		if err != nil {
			return e, err
		}
		pidfd, err := r.proc.verify(pid, ns)
		if errors.Is(err, errRecycled) {
			if try < maxTries {
				continue
			}
			return e, fmt.Errorf("process %d: %w: %w, %d times", pid, ErrNoInit, err, try)
		}
		if err != nil {
			return e, err
		}
		e.init = Init{PID: pid, NS: ns, ID: namespaceID(nsfd), Owner: owner, By: by}
		e.pidfd = pidfd
		break
	}
	if err := r.watch.add(e); err != nil {
		return e, fmt.Errorf("watch process %d: %w", e.init.PID, err)
	}
	return e, nil
}

// findFork is the finder of Method Fork.
func (r *Resolver) findFork(_, nsfd int, _ uint64) (int, Method, error) {
	pid, err := r.forks.find(nsfd, r.timeout)
	return pid, Fork, err
}

// died drops the entry of an init that has died. The watcher calls it.
func (r *Resolver) died(e *entry) {
	// The mark comes first: Delete does not find e while a fill has it, but
	// Resolve looks at the mark after the fill.
	e.dead.Store(true)
	r.cache.Delete(e.init.NS, e)
}

// evicted closes an entry that has left the cache. The cache calls it.
func (r *Resolver) evicted(ns uint64, e *entry, err error) {
	if e == nil { // the fill panicked
		return
	}
	if e.pidfd >= 0 {
		r.watch.remove(e)
	}
	if err == nil && !r.closed.Load() {
		r.log.Debug("pid namespace dropped", "ns", ns, "init", e.init.PID)
		tell := r.idle
		if dead, _ := exited(e.pidfd); dead || e.dead.Load() {
			tell = r.gone
		}
		if tell != nil {
			tell(ns)
		}
	}
	e.close() // last: the kernel may use the inode number again from here on
}

// Close closes all descriptors. Gone and Idle are not called for what is cached.
// No other method may be running. Later calls return ErrClosed.
func (r *Resolver) Close() {
	if r.closed.Swap(true) {
		return
	}
	r.watch.stop()
	r.cache.Close()
	r.watch.closeFds()
	r.closeFDs()
}

// closeFDs closes what New has opened so far.
func (r *Resolver) closeFDs() {
	if r.forks != nil {
		r.forks.close()
	}
	if r.hostfd >= 0 {
		unix.Close(r.hostfd)
	}
	if r.proc != nil {
		r.proc.close()
	}
}
