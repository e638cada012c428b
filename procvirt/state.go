// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/count"
	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/loadavg"
)

// identity distinguishes a container from others of its pid namespace: the inode of
// its directory for each controller. The kernel does not use these numbers again
// (kernfs has 64 bits for them). A controller that has no directory counts with the
// reason.
type identity [cgroup.NumControllers]uint64

// groups are the control groups of a container.
type groups struct {
	id     identity
	places [cgroup.NumControllers]cgroup.Place
	failed [cgroup.NumControllers]error
}

// locate finds the groups that a caller's text leads to. init is the init's text, nil
// if only the caller's counts.
func (r *Registry) locate(caller, init []byte) groups {
	var g groups
	for _, ctl := range cgroup.Controllers() {
		p, err := r.mounts.Locate(ctl, r.cfg.Policy, caller, init)
		if err == nil {
			g.id[ctl], err = inodeOf(p.Dirs[0])
		}
		g.places[ctl] = p
		if err != nil {
			g.places[ctl], g.failed[ctl] = cgroup.Place{}, err
			g.id[ctl] = 1<<63 | uint64(reasonOf(err))
		}
	}
	return g
}

// resourceError returns an error that says that this process is out of a resource, if
// that is why one of the groups was not found.
func (g *groups) resourceError() error {
	for _, err := range g.failed {
		if isOurs(err) {
			return err
		}
	}
	return nil
}

// inodeOf returns the inode number of a group's directory.
func inodeOf(dir string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	switch {
	case err == unix.ENOENT:
		return 0, fmt.Errorf("%s: %w", dir, cgroup.ErrRemoved)
	case err != nil:
		return 0, fmt.Errorf("stat %s: %w", dir, err)
	}
	return st.Ino, nil
}

// errOtherGroup says that one of the container's directories is gone, and another
// group's is there.
var errOtherGroup = errors.New("another control group has the path")

// verify returns errOtherGroup if a path leads to another group by now, and
// ErrRemoved if it leads nowhere.
func (g *groups) verify() error {
	last := ""
	for ctl := range g.places {
		if g.failed[ctl] != nil || g.places[ctl].Dirs[0] == last {
			continue
		}
		last = g.places[ctl].Dirs[0]
		ino, err := inodeOf(last)
		if err != nil {
			return err
		}
		if ino != g.id[ctl] {
			return fmt.Errorf("%s: %w", last, errOtherGroup)
		}
	}
	return nil
}

// samePaths reports whether g and h are at the same paths.
func (g *groups) samePaths(h *groups) bool {
	for ctl := range g.places {
		if g.places[ctl].Path != h.places[ctl].Path {
			return false
		}
	}
	return true
}

// state is what is kept of a container from one request to the next: its groups, the
// files that are open, and what was shown.
type state struct {
	registry *Registry
	space    *space
	// users is how many requests hold the container. It grows only under space.mu.
	users atomic.Int32

	// mu is held for reading while files are read, and for writing while they
	// are opened and closed: a descriptor must not be closed, and its number
	// given to another file, under a reader.
	mu sync.RWMutex
	groups
	ended bool // nothing may be opened any more

	// known is the policy that was read last. warned is set once unknown words of it
	// were logged.
	known  atomic.Pointer[policy]
	warned atomic.Bool
	// policyRead is when all levels of the policy were read last, on the clock of
	// Config.Now.
	policyRead atomic.Int64

	openFiles
	// numbers are those that a list has read last, nil for none.
	numbers atomic.Pointer[listNumbers]
	// load is the container among those that are sampled. It stays when that has
	// ended, for what was shown last.
	load *loadavg.Tracked
	// record is where load outlives the process; nil for nowhere.
	record *shm.Record
	// look is when to look for controllers that are enabled only above the container,
	// on the clock of Config.Now, 0 for never.
	look atomic.Int64

	// pace is that of gathering for each file, by its index.
	pace []pace
	// files counts the contents of each file, by its index.
	files []fileCount

	account  account
	counters vmCounters

	reads           count.Rate // contents that were made
	slow, fallbacks atomic.Uint64
	// lastFallback is the index of the file of the last one, shifted by 8, and its Reason
	// plus 1; 0: there was none.
	lastFallback atomic.Uint32
}

// openFiles are the files of a container that are open. The zero value is none.
type openFiles struct {
	policyFiles *cgroup.PolicyFiles
	memory      *cgroup.MemoryFiles
	huge        *cgroup.HugeFiles
	nodes       *cgroup.NodeFiles
	cpu         *cgroup.CPUFiles
	io          *cgroup.IOFiles
	oom         *cgroup.OOMFile
	numa        *cgroup.NUMAFiles
	request     *cgroup.RequestFile
	stalls      cgroup.PressureFiles
	opened      []interface{ Close() } // policyFiles to request, if they are not nil
	// not is why there is nothing to open, if that is settled. unsettled says that one
	// of them may change while the container stays in its groups.
	not       [numSources]error
	unsettled bool
	// levels is what enabledLevels was when the files were opened.
	levels int
}

// lookAgain is how soon a container is looked at again, one of whose controllers is
// only enabled above it: it may be enabled for the container itself at any time, without
// a notice.
const lookAgain = time.Second

// errNotOpen says that a source is not open.
var errNotOpen = errors.New("a source is not open")

// ready returns nil if all of the sources are open, errNotOpen if one is to be opened
// first, and else why one cannot be. The caller holds mu for reading.
func (s *state) ready(needs sources, now int64) error {
	if due := s.look.Load(); due != 0 && now > due {
		if s.unsettled || s.enabledLevels() != s.levels {
			return errNotOpen
		}
		s.look.Store(now + int64(lookAgain))
	}
	for i := range numSources {
		source := sources(1) << i
		if needs&source == 0 || s.has(source) {
			continue
		}
		if s.not[i] != nil {
			return s.not[i]
		}
		return errNotOpen
	}
	return nil
}

// has reports whether a source is open.
func (s *state) has(source sources) bool {
	switch source {
	case sourceCPU:
		return s.cpu != nil
	case sourceMemory:
		return s.memory != nil
	case sourceIO:
		return s.io != nil
	case sourceCounters:
		return s.oom != nil
	case sourceNodes:
		return s.numa != nil
	case sourceRequest:
		return s.request != nil
	case sourceLoad:
		_, ok := s.load.Peek()
		return ok
	default:
		return s.stalls.Has(resourceOf(source))
	}
}

// incomplete reports whether a controller is enabled only above the container.
func (s *state) incomplete() bool {
	return s.memory != nil && s.memory.Incomplete || s.cpu != nil && s.cpu.Incomplete || s.io != nil && s.io.Incomplete
}

// enabledLevels counts the groups, of the container's and their ancestors, in which
// controllers are enabled.
func (s *state) enabledLevels() (n int) {
	for ctl := range s.places {
		n += s.places[ctl].EnabledLevels(cgroup.Controller(ctl))
	}
	return n
}

// open opens the sources in needs, after openPolicy. The caller holds mu for writing.
func (s *state) open(needs sources) error {
	for i := range numSources {
		if needs&(1<<i) == 0 {
			continue
		}
		err := s.openSource(1 << i)
		// Last: the path led to this group all the time if it does now.
		if e := s.verify(); e != nil {
			s.closeLocked()
			return e
		}
		if err != nil {
			s.settle(i, err)
			return err
		}
	}
	if s.incomplete() {
		s.levels = s.enabledLevels()
		s.look.Store(s.registry.cfg.Now() + int64(lookAgain))
	}
	return nil
}

// settle notes err as the reason why source number i is not open, if that holds for a
// while.
func (s *state) settle(i int, err error) {
	_, isReason := err.(Reason)
	switch {
	case isReason, errors.Is(err, cgroup.ErrNoController), errors.Is(err, cgroup.ErrOutside), errors.Is(err, cgroup.ErrTooDeep):
		s.not[i] = err
	case errors.Is(err, cgroup.ErrNotEnabled), errors.Is(err, cgroup.ErrNoPressure):
		s.not[i], s.unsettled = err, true
		s.look.Store(s.registry.cfg.Now() + int64(lookAgain))
	}
}

func (s *state) openSource(source sources) error {
	if s.has(source) {
		return nil
	}
	switch source {
	case sourceCPU:
		return s.openCPU()
	case sourceMemory:
		return s.openMemory()
	case sourceIO:
		return s.openIO()
	case sourceCounters:
		return s.openCounters()
	case sourceNodes:
		return s.openNodes()
	case sourceRequest:
		return s.openRequest()
	case sourceLoad:
		return s.track()
	default:
		return s.openPressure(source)
	}
}

// place returns where ctl keeps the container's numbers.
func (s *state) place(ctl cgroup.Controller) (cgroup.Place, error) {
	p, err := s.places[ctl], s.failed[ctl]
	switch {
	case errors.Is(err, cgroup.ErrNoController):
		return p, NoController // so all containers of the host: it must not allocate
	case err != nil:
		return p, err
	case p.Root:
		return p, RootCgroup
	}
	return p, nil
}

// inGroup returns nil if the container has a group of its own, for files that need no
// number of it. The memory controller says so, or if the host has none, the one that counts
// CPU time, which every v2 group has.
func (s *state) inGroup() error {
	_, err := s.place(cgroup.Memory)
	if err == nil || err == RootCgroup {
		return err
	}
	if _, e := s.place(cgroup.CPUAcct); e == nil || e == RootCgroup {
		return e
	}
	return err
}

func (s *state) openMemory() error {
	p, err := s.place(cgroup.Memory)
	if err != nil {
		return err
	}
	// There is no place for hugetlb if the host has no such controller.
	o, sys := &s.space.owner.opener, filepath.Join(s.registry.cfg.Root, "sys")
	huge, err := cgroup.OpenHugeTLB(o, s.places[cgroup.HugeTLB], sys)
	if err != nil {
		return err
	}
	nodes, err := cgroup.OpenNodes(o, s.places[cgroup.CPUSet], sys)
	if err != nil {
		huge.Close()
		return err
	}
	memory, err := cgroup.OpenMemory(o, p)
	if err != nil {
		huge.Close()
		nodes.Close()
		return err
	}
	s.memory, s.huge, s.nodes = memory, huge, nodes
	s.opened = append(s.opened, memory, huge, nodes)
	return nil
}

func (s *state) openCPU() (err error) {
	p, err := s.place(cgroup.CPUAcct)
	if err != nil {
		return err
	}
	s.cpu, err = cgroup.OpenCPU(&s.space.owner.opener, cgroup.CPUPlaces{
		CPU: s.places[cgroup.CPU], CPUAcct: p, CPUSet: s.places[cgroup.CPUSet],
	})
	return s.keep(s.cpu, err)
}

func (s *state) openIO() error {
	p, err := s.place(cgroup.BlkIO)
	if err != nil {
		return err
	}
	s.io, err = cgroup.OpenIO(&s.space.owner.opener, p)
	return s.keep(s.io, err)
}

func (s *state) openRequest() (err error) {
	// There is no place for cpu if the host has no such controller.
	s.request, err = cgroup.OpenRequest(&s.space.owner.opener, s.places[cgroup.CPU], filepath.Join(s.registry.cfg.Root, "sys"))
	return s.keep(s.request, err)
}

// keep has f closed with the other files, if it was opened.
func (s *state) keep(f interface{ Close() }, err error) error {
	if err == nil {
		s.opened = append(s.opened, f)
	}
	return err
}

// tryClose closes the files if nobody reads them just now. What was shown last is kept.
func (s *state) tryClose() {
	if s.mu.TryLock() {
		defer s.mu.Unlock()
		s.closeLocked()
	}
}

// closeLocked is tryClose. The caller holds mu for writing.
func (s *state) closeLocked() {
	for _, f := range s.opened {
		f.Close()
	}
	s.stalls.Close()
	s.openFiles = openFiles{}
	s.look.Store(0)
}

// end closes the files for ever, and forgets what was shown.
func (s *state) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.space.owner.states.Add(-1)
	s.closeLocked()
	s.load.Stop()
	s.account.attach(nil).Free()
	s.counters.attach(nil).Free()
	s.record.Free()
	s.record = nil
}

// move makes g the groups of s: those at the same paths were removed, and made anew
// under a living container.
func (s *state) move(g groups) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
	other := s.id[cgroup.CPUAcct] != g.id[cgroup.CPUAcct]
	s.account.attach(nil).Free()
	s.counters.attach(nil).Free()
	s.record.Free()
	s.groups = g
	s.persist()
	if other {
		s.account.restart()
		s.load.Stop()
	}
}
