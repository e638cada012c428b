// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"math"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/shm"
	"vprocfs/procvirt"
	"vprocfs/procvirt/cgroup"
)

// source makes the content of the files of a view. It implements fs.Source.
type source struct {
	registry *procvirt.Registry
	hosts    []*fs.HostTree // of the directories of the host that can be opened
	unserved []string       // prefixes of the paths of the others
	files    int            // most descriptors that this process may have
	triggers *triggers      // nil: none
	log      *slog.Logger
}

// cpuDir and nodeDir are the directories of CPUs and of memory nodes, on the host and in the
// view.
const (
	cpuDir  = "sys/devices/system/cpu"
	nodeDir = "sys/devices/system/node"
)

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
		MaxRate:     o.MaxRate,
		Ended:       newMemoryReleaser().containerEnded,
		Log:         log,
	}); err != nil {
		return nil, err
	}
	s.addHost(cpuDir, func(path string) (*fs.HostTree, error) { return fs.OpenCPUTree(path, nodeCPU, s) })
	if s.registry.HasNodes() {
		s.addHost(nodeDir, func(path string) (*fs.HostTree, error) { return fs.OpenNodeTree(path, nodeNUMA, s) })
	}
	return s, nil
}

// addHost opens a directory of the host. If it cannot, the view does not have it.
func (s *source) addHost(dir string, open func(path string) (*fs.HostTree, error)) {
	h, err := open("/" + dir)
	if err != nil {
		s.log.Warn(dir+" is not served", "err", err)
		s.unserved = append(s.unserved, dir+"/")
		return
	}
	s.hosts = append(s.hosts, h)
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
	for _, h := range s.hosts {
		h.Close()
	}
	s.registry.Close()
}

// serverOptions returns the options of a server of conn with content from s. saved has
// the triggers of a former worker; if it is nil, triggers end with this process.
func (s *source) serverOptions(conn *fs.Conn, saved *shm.Table) fs.ServerOptions {
	o := fs.ServerOptions{Log: s.log, Hosts: s.hosts, Nodes: nodes(s.registry.Files(), s.unserved...)}
	if s.registry.HasPressure() {
		s.triggers = newTriggers(s, conn, saved)
		o.Triggers = s.triggers
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
	c, err := s.registry.AcquireToRead(t.Caller().PID, t)
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

// Nodes returns what reports whether the caller of t sees a memory node. A caller without a
// container sees all.
func (s *source) Nodes(t *fs.Turn) (func(node int) bool, error) {
	return s.sees(t, s.registry.NoNodes, (*procvirt.Container).Nodes)
}

// CPUs returns what reports whether the caller of t sees a CPU.
func (s *source) CPUs(t *fs.Turn) (func(cpu int) bool, error) {
	return s.sees(t, s.registry.NoCPUs, (*procvirt.Container).VisibleCPUs)
}

// sees returns what reports whether the caller of t sees a number of the set that get sets.
// It sees all if without, which counts the reason for that, returns no error.
func (s *source) sees(t *fs.Turn, without func(error) error, get func(*procvirt.Container, *cgroup.CPUs) (bool, error)) (func(int) bool, error) {
	all := func(int) bool { return true }
	c, err := s.registry.Acquire(t.Caller().PID, t)
	if err != nil {
		return all, without(err)
	}
	defer c.Release()
	var set cgroup.CPUs
	ok, err := get(c, &set)
	if err != nil || !ok {
		return all, err
	}
	return set.Has, nil
}

// AppendNode appends a file of a memory node as the caller of t sees it, unless that is the
// host's.
func (s *source) AppendNode(dst []byte, node int, name string, t *fs.Turn) (out []byte, ours bool, err error) {
	c, err := s.registry.AcquireToRead(t.Caller().PID, t)
	if err != nil {
		return dst, false, s.registry.NoNodes(err)
	}
	defer c.Release()
	return c.AppendNode(dst, node, name)
}
