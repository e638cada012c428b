package daemon

import (
	"fmt"
	"log/slog"
	"math"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/shm"
	"vprocfs/procvirt"
)

// source makes the content of the files of a view. It implements fs.Source.
type source struct {
	registry *procvirt.Registry
	cpus     *fs.HostTree // nil if that of the host cannot be opened
	files    int          // most descriptors that this process may have
	log      *slog.Logger
}

// hostCPUs is the host's directory of CPUs.
const hostCPUs = "/sys/devices/system/cpu"

// newSource opens the files of the host. The source is safe for concurrent use.
func newSource(o ViewOptions, log *slog.Logger) (*source, error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	files, err := openFileLimit()
	if err != nil {
		return nil, err
	}
	s := &source{log: log, files: files}
	if s.registry, err = procvirt.New(procvirt.Config{
		Root:        "/",
		InitPID:     o.InitPID,
		MaxInits:    min(files/16, 8192), // each takes two descriptors
		Policy:      o.Policy,
		IgnoreQuota: o.IgnoreQuota,
		NoSwap:      o.NoSwap,
		NoZswap:     o.NoZswap,
		HostLoad:    o.HostLoad,
		Recheck:     o.TTL,
		MaxFiles:    files * 3 / 4,
		Ended:       newMemoryReleaser().containerEnded,
		Log:         log,
	}); err != nil {
		return nil, err
	}
	if s.cpus, err = fs.OpenCPUTree(hostCPUs, nodeCPU, s); err != nil {
		log.Warn("sys/devices/system/cpu is not served", "err", err)
	}
	return s, nil
}

// openFileLimit returns how many descriptors this process may have.
func openFileLimit() (int, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("getrlimit RLIMIT_NOFILE: %w", err)
	}
	return int(min(l.Cur, 1<<20)), nil
}

// Close frees everything. No Append may be running.
func (s *source) Close() {
	if s.cpus != nil {
		s.cpus.Close()
	}
	s.registry.Close()
}

// serverOptions returns the options of a server of conn with content from s. saved has
// the triggers of a former worker; if it is nil, triggers end with this process.
func (s *source) serverOptions(conn *fs.Conn, saved *shm.Table) fs.ServerOptions {
	o := fs.ServerOptions{Log: s.log, Nodes: nodes(s.registry.Files(), s.cpus != nil)}
	if s.cpus != nil {
		o.Hosts = []*fs.HostTree{s.cpus}
	}
	if s.registry.HasPressure() {
		o.Triggers = newTriggers(s, conn, saved)
	}
	return o
}

// Owner returns the outermost container that c is in, 0 if it cannot be found.
func (s *source) Owner(c fs.Caller) uint64 { return s.registry.Owner(c.PID) }

// fileOf returns the file that a node of the tree shows.
func (s *source) fileOf(n fs.NodeID) (*procvirt.File, error) {
	if f := s.registry.File(uint64(n)); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("node %d: %w", n, unix.ENOENT)
}

// Append appends file n as the caller of t sees it.
func (s *source) Append(dst []byte, n fs.NodeID, t *fs.Turn) ([]byte, error) {
	f, err := s.fileOf(n)
	if err != nil {
		return dst, err
	}
	c, err := s.registry.Acquire(t.Caller().PID, t)
	if err != nil {
		return s.registry.AppendHost(dst, f, err, t)
	}
	defer c.Release()
	return c.Append(dst, f)
}

// LastCPU returns the highest CPU that the caller of t may run on. A caller without a
// container may run on all.
func (s *source) LastCPU(t *fs.Turn) (int, error) {
	c, err := s.registry.Acquire(t.Caller().PID, t)
	if err != nil {
		return math.MaxInt, s.registry.NoCPUs(err)
	}
	defer c.Release()
	return c.LastCPU()
}

// CPUOffline reports whether the caller of t does not see a CPU that it may run on.
func (s *source) CPUOffline(t *fs.Turn, cpu int) (bool, error) {
	c, err := s.registry.Acquire(t.Caller().PID, t)
	if err != nil {
		return false, s.registry.NoCPUs(err)
	}
	defer c.Release()
	return c.Offline(cpu)
}
