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

	// helperTimeout is how long a helper may take. It needs some milliseconds, and
	// seconds on a machine that is short of CPU and memory (more than two were seen).
	// Who gives up gets the host's numbers, and that is worse than to wait.
	helperTimeout = 10 * time.Second

	// maxTries bounds how often a pid that was recycled under our hands makes
	// us ask again. More than one in a row takes an attacker.
	maxTries = 4
)

// Config is what New needs. The zero value is good.
type Config struct {
	Method   Method        // Auto, Ioctl, Parents or Fork
	TTL      time.Duration // how long an answer is used before it is verified again; 0: 1 minute
	ErrorTTL time.Duration // how long a failure is kept; 0: 1 second
	Max      int           // most namespaces kept, two descriptors each; 0: 4096
	MaxForks int           // most helpers at once; 0: 4
	Proc     string        // a procfs of our own pid namespace; "": /proc

	// Gone, if not nil, is told the inode number of each namespace that was
	// resolved and whose init died, and Idle of each that is no longer kept for
	// want of room. The number is not used again for another namespace before
	// they return. A Resolve of the same namespace may overtake them. They must
	// not call Close.
	Gone, Idle func(ns uint64)

	Log *slog.Logger // nil: none
}

// Resolver finds inits and keeps them. Make one with New. Cached and Resolve
// are safe for concurrent use. While nobody asks and no init dies, it sleeps.
type Resolver struct {
	proc   *procfs
	host   Init // what every caller in our own namespace gets
	hostfd int  // our own namespace, so that its inode number stays ours
	find   finder
	by     Method
	forks  *forker
	cache  *cache.Cache[uint64, *entry]
	watch  *watcher
	gone   func(uint64)
	idle   func(uint64)
	log    *slog.Logger
	closed atomic.Bool

	timeout time.Duration // helperTimeout; longer in tests
}

// New makes a Resolver. It probes the kernel: an error that is ErrUnsupported
// names the oldest kernel that would do. Method Ioctl is such an error before
// Linux 6.11; pidfds, and so this package, need 5.3.
func New(conf Config) (_ *Resolver, err error) {
	if conf.Log == nil {
		conf.Log = slog.New(slog.DiscardHandler)
	}
	if conf.Proc == "" {
		conf.Proc = "/proc"
	}
	r := &Resolver{log: conf.Log, gone: conf.Gone, idle: conf.Idle, timeout: helperTimeout}
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
			err = fmt.Errorf("init pid resolver: %w", err)
		}
	}()

	if r.proc, err = openProcfs(conf.Proc); err != nil {
		return nil, err
	}
	undo = append(undo, r.proc.close)
	if err = probePidfd(os.Getpid()); err != nil {
		return nil, err
	}
	var ns uint64
	if r.hostfd, ns, err = r.proc.open(os.Getpid()); err != nil {
		return nil, err
	}
	undo = append(undo, func() { unix.Close(r.hostfd) })
	r.host = Init{PID: 1, NS: ns, ID: namespaceID(r.hostfd), By: Host, Host: true}

	if r.forks, err = newForker(withDefault(conf.MaxForks, defaultForks)); err != nil {
		return nil, err
	}
	undo = append(undo, r.forks.close)
	if err = r.choose(conf.Method); err != nil {
		return nil, err
	}
	if r.watch, err = newWatcher(r.died); err != nil {
		return nil, err
	}
	r.cache = cache.New(cache.Config[uint64, *entry]{
		TTL:      withDefault(conf.TTL, defaultTTL),
		ErrorTTL: withDefault(conf.ErrorTTL, defaultErrorTTL),
		Max:      r.room(withDefault(conf.Max, defaultMax)),
		Evicted:  r.evicted,
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

// room lowers n so that the entries use half of the descriptors we may open.
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

// Method is the method in use: Ioctl, Parents or Fork.
func (r *Resolver) Method() Method { return r.by }

// Cached returns the init of pid's namespace if it is at hand, and ErrCold if
// it is not. A failure that is kept is returned as it was. It costs one system
// call, does not allocate on a hit, and does not block.
//
// pid is the id of any thread, in our own pid namespace.
func (r *Resolver) Cached(pid int) (Init, error) {
	if r.closed.Load() {
		return Init{}, ErrClosed
	}
	ns, err := r.proc.namespace(pid)
	if err != nil {
		return Init{}, err
	}
	return r.Known(ns)
}

// Known is Cached for a namespace whose inode number is known to be that of a
// living caller: it makes no system call.
func (r *Resolver) Known(ns uint64) (Init, error) {
	if ns == r.host.NS {
		return r.host, nil
	}
	if r.closed.Load() {
		return Init{}, ErrClosed
	}
	e, ok, err := r.cache.Get(ns)
	switch {
	case !ok:
		return Init{NS: ns}, ErrCold
	case err != nil:
		return Init{NS: ns}, err
	case e.dead.Load():
		// A zombie can ask, or someone about one; Resolve finds the reason.
		return Init{NS: ns}, ErrCold
	}
	init := e.init
	init.By = Cache
	return init, nil
}

// Resolve is Cached, and finds the init where it is not at hand. Where a helper is
// needed it may wait up to 10 s, and 20 s for its turn; goroutines that ask for one
// namespace at the same time share one resolution.
func (r *Resolver) Resolve(pid int) (Init, error) {
	init, err := r.Cached(pid)
	if !errors.Is(err, ErrCold) {
		return init, err
	}
	nsfd, ns, err := r.proc.open(pid)
	if err != nil {
		return Init{}, err
	}
	if ns == r.host.NS { // the pid was recycled since we looked
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
		// A namespace never gets another init, so an answer that still
		// verifies need not be found again: no fork a minute per container,
		// and a helper that fails cannot take away what is known to hold.
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
		// It died before the cache had it, when died could not drop it.
		r.cache.Delete(ns, e)
		return Init{NS: ns}, fmt.Errorf("process %d: %w", e.init.PID, ErrNoInit)
	}
	init = e.init
	if renewed {
		init.By = Cache
	}
	return init, nil
}

// Outermost returns the inode number of the outermost pid namespace below our own
// that pid is in, and of our own where it is in that one: whatever namespaces a
// container makes for itself, this one is the same. It takes three system calls, and
// three more for each level, and does not block.
func (r *Resolver) Outermost(pid int) (ns uint64, err error) {
	fd, ns, err := r.proc.open(pid)
	if err != nil {
		return 0, err
	}
	for ns != r.host.NS {
		up, above, err := parent(fd)
		if err == nil && above == r.host.NS {
			unix.Close(up)
			break
		}
		unix.Close(fd)
		if err != nil {
			return 0, fmt.Errorf("parent of pid namespace %d: %w", ns, err)
		}
		fd, ns = up, above
	}
	unix.Close(fd)
	return ns, nil
}

// fill resolves namespace nsfd, which it takes over and caller is in. The entry is
// never nil.
func (r *Resolver) fill(caller, nsfd int, ns uint64) (*entry, error) {
	e := &entry{nsfd: nsfd, pidfd: -1}
	for try := 1; ; try++ {
		pid, by, err := r.find(question{caller, nsfd, ns, r.timeout})
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
		e.init = Init{PID: pid, NS: ns, ID: namespaceID(nsfd), By: by}
		e.pidfd = pidfd
		break
	}
	if err := r.watch.add(e); err != nil {
		return e, fmt.Errorf("watch process %d: %w", e.init.PID, err)
	}
	return e, nil
}

// findFork is the finder of Method Fork.
func (r *Resolver) findFork(q question) (int, Method, error) {
	pid, err := r.forks.find(q.nsfd, q.timeout)
	return pid, Fork, err
}

// died is called by the watcher.
func (r *Resolver) died(e *entry) {
	// The mark comes first: if a fill holds e at the moment, Delete does not
	// reach it, but Resolve looks at the mark after the fill.
	e.dead.Store(true)
	r.cache.Delete(e.init.NS, e)
}

// evicted is called by the cache for each entry that leaves.
func (r *Resolver) evicted(ns uint64, e *entry, err error, why cache.Reason) {
	if e == nil { // the fill panicked
		return
	}
	if e.pidfd >= 0 {
		r.watch.remove(e)
	}
	if err == nil && why != cache.Closed {
		r.log.Debug("pid namespace dropped", "ns", ns, "init", e.init.PID, "why", why)
		tell := r.idle
		if dead, _ := exited(e.pidfd); dead || e.dead.Load() {
			tell = r.gone
		}
		if tell != nil {
			tell(ns)
		}
	}
	e.close() // last: it frees the inode number for another namespace
}

// Close lets go of all descriptors. Gone is not called for what is kept. No
// Cached and no Resolve may be running; later ones get ErrClosed.
func (r *Resolver) Close() {
	if r.closed.Swap(true) {
		return
	}
	r.watch.stop()
	r.cache.Close()
	r.watch.closeFds()
	r.forks.close()
	unix.Close(r.hostfd)
	r.proc.close()
}
