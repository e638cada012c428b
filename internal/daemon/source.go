package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/initpid"
	"vprocfs/procvirt"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
)

// source makes the content of the files of a mount: it leads a caller's pid to
// its init, to its control groups, and to the text. It is an fs.Source.
type source struct {
	resolver *initpid.Resolver
	views    *procvirt.Views
	callers  *cgroup.Callers
	still    func(pid int) (ns uint64, ok bool)
	requests sync.Pool   // of *request
	cpus     *fs.CPUTree // nil where it cannot be had
	tidy     *tidier
	files    int // how many this process may have open
	log      *slog.Logger
	// off says that everybody gets the host's files.
	off atomic.Bool
}

// request is the memory that one request works in.
type request struct {
	subject procvirt.Subject
	groups  []byte
}

// proc is where the host's procfs is, and hostCPUs where its sysfs has the CPUs.
const (
	proc     = "/proc"
	hostCPUs = "/sys/devices/system/cpu"
)

// newSource finds out about the host. It is safe for concurrent use.
func newSource(o ViewOptions, log *slog.Logger) (*source, error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	files, err := openFileLimit()
	if err != nil {
		return nil, err
	}
	s := &source{log: log, tidy: newTidier(), files: files}
	s.requests.New = func() any { return &request{groups: make([]byte, 0, 1024)} }
	if s.views, err = procvirt.New(procvirt.Config{
		Root:        "/",
		Policy:      o.Policy,
		IgnoreQuota: o.IgnoreQuota,
		NoSwap:      o.NoSwap,
		NoZswap:     o.NoZswap,
		HostLoad:    o.HostLoad,
		Recheck:     o.TTL,
		MaxFiles:    files * 3 / 4,
		Now:         host.NewClock().Now,
		Steady:      host.Monotonic(),
		Log:         log,
	}); err != nil {
		return nil, err
	}
	s.callers = s.views.Callers()
	s.resolver, err = initpid.New(initpid.Config{
		Method: o.InitPID,
		TTL:    o.TTL,
		Max:    min(files/16, 8192), // each takes two descriptors
		Proc:   proc,
		Gone:   s.ended,
		Idle:   s.views.Release,
		Log:    log,
	})
	if err != nil {
		s.views.Close()
		return nil, err
	}
	s.still = func(pid int) (uint64, bool) {
		init, ok, err := s.resolver.Lookup(pid)
		return init.NS, ok && err == nil
	}
	if s.cpus, err = fs.OpenCPUTree(hostCPUs, s.lastCPU); err != nil {
		log.Warn("sys/devices/system/cpu is not served", "err", err)
	}
	return s, nil
}

// openFileLimit is how many descriptors this process may have.
func openFileLimit() (int, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("getrlimit RLIMIT_NOFILE: %w", err)
	}
	return int(min(l.Cur, 1<<20)), nil
}

// Close gives everything back. No Append may be running.
func (s *source) Close() {
	if s.cpus != nil {
		s.cpus.Close()
	}
	s.resolver.Close()
	s.views.Close()
}

// serverOptions are those of every server of the main tree with content from s.
func (s *source) serverOptions() fs.ServerOptions {
	return fs.ServerOptions{Log: s.log, CPUs: s.cpus, Pressure: s.views.HasPressure()}
}

// ended forgets a pid namespace whose init has died.
func (s *source) ended(ns uint64) {
	s.views.Drop(ns)
	s.tidy.gone()
}

// Owner returns the outermost container that c is in, 0 if it cannot be found.
func (s *source) Owner(c fs.Caller) uint64 {
	ns, err := s.resolver.Outermost(c.PID)
	if err != nil {
		return 0
	}
	return ns
}

// toggle switches virtualisation off, which gives everybody the host's files, and
// on again. It tells whether it is on now. It is for one goroutine.
func (s *source) toggle() (on bool) {
	off := !s.off.Load()
	s.off.Store(off)
	return !off
}

// Stats tells how often callers got the host's file, and why.
func (s *source) Stats() map[string]uint64 { return s.views.Fallbacks() }

// fileOf returns the file that a node of the tree shows.
func (s *source) fileOf(n fs.NodeID) (*procvirt.File, error) {
	if f := s.views.File(uint64(n)); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("node %d: %w", n, unix.ENOENT)
}

// Append is the road of one read. A caller that cannot be led to its container
// gets the host's file, and a count under the reason.
func (s *source) Append(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error) {
	out, err := s.append(dst, n, t.Caller(), false)
	if err != procvirt.ErrCold {
		return out, err
	}
	if err := t.Block(0); err != nil {
		return dst, err
	}
	return s.append(dst, n, t.Caller(), true)
}

func (s *source) append(dst []byte, n fs.NodeID, c fs.Caller, wait bool) ([]byte, error) {
	file, err := s.fileOf(n)
	if err != nil {
		return dst, err
	}
	if s.off.Load() {
		return s.views.AppendHost(dst, file, procvirt.SwitchedOff, nil, wait)
	}
	r := s.requests.Get().(*request)
	defer s.requests.Put(r)
	reason, lost := s.find(&r.subject, r, c.PID, wait)
	switch {
	case lost == procvirt.ErrCold:
		return dst, lost
	case lost != nil:
		return s.views.AppendHost(dst, file, reason, lost, wait)
	}
	return s.views.Append(dst, file, &r.subject, wait)
}

// lastCPU returns the highest CPU that t's caller may run on. A caller that cannot be
// led to its container may have all, and is counted as one that gets the host's file.
func (s *source) lastCPU(t *fs.Turn) (int, error) {
	cpu, err := s.highest(t.Caller(), false)
	if err != procvirt.ErrCold {
		return cpu, err
	}
	if err := t.Block(0); err != nil {
		return 0, err
	}
	return s.highest(t.Caller(), true)
}

func (s *source) possible() *procvirt.File { return s.views.File(uint64(fs.NodeCPUPossible)) }

func (s *source) highest(c fs.Caller, wait bool) (int, error) {
	if s.off.Load() {
		s.views.NoteFallback(s.possible(), procvirt.SwitchedOff, nil)
		return math.MaxInt, nil
	}
	r := s.requests.Get().(*request)
	defer s.requests.Put(r)
	reason, lost := s.find(&r.subject, r, c.PID, wait)
	switch {
	case lost == procvirt.ErrCold:
		return 0, lost
	case lost != nil:
		s.views.NoteFallback(s.possible(), reason, lost)
		return math.MaxInt, nil
	}
	cpu, ok, err := s.views.LastCPU(&r.subject, wait)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return math.MaxInt, nil
	}
	return cpu, nil
}

// find fills the subject that the caller with a thread id of pid is.
func (s *source) find(to *procvirt.Subject, r *request, pid int, wait bool) (procvirt.Reason, error) {
	if pid == 0 {
		return procvirt.Invisible, procvirt.Invisible
	}
	if groups, ns, ok := s.callers.Read(pid, r.groups); ok {
		r.groups = groups
		if init, ok, err := s.resolver.LookupNS(ns); ok && err == nil {
			*to = subject(init, groups)
			return 0, nil
		}
	}
	init, ok, err := s.resolver.Lookup(pid)
	switch {
	case !ok && !wait:
		return 0, procvirt.ErrCold
	case !ok:
		init, err = s.resolver.Resolve(pid)
	}
	if err != nil {
		return reasonOf(err), err
	}
	var groups []byte
	if wait {
		// The second half of a request: it must not count as a second one.
		groups, err = cgroup.ReadMembership(proc, pid, r.groups)
	} else {
		groups, err = s.callers.Learn(pid, init.NS, s.still, r.groups)
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		return procvirt.CallerGone, err
	case err != nil:
		return procvirt.Unreadable, err
	}
	r.groups = groups
	*to = subject(init, groups)
	return 0, nil
}

func subject(init initpid.Init, groups []byte) procvirt.Subject {
	return procvirt.Subject{NS: init.NS, ID: init.ID, Init: init.PID, Host: init.Host, Groups: groups}
}

// reasonOf names why no init was found.
func reasonOf(err error) procvirt.Reason {
	switch {
	case errors.Is(err, initpid.ErrCallerGone):
		return procvirt.CallerGone
	case errors.Is(err, initpid.ErrNotVisible):
		return procvirt.Invisible
	case errors.Is(err, initpid.ErrNoInit):
		return procvirt.NoInit
	}
	return procvirt.Unresolved
}
