package procvirt

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"time"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/loadavg"
)

// incompleteRecheck is how soon a container is looked at again, one of whose
// controllers is only enabled above it: it may be enabled for the container
// itself at any time, and nothing tells.
const incompleteRecheck = time.Second

// container is one container's control groups, with the files that were needed
// so far held open, and the account of its CPU rows.
type container struct {
	views *Views
	space *space

	places map[cgroup.Controller]cgroup.Place
	failed map[cgroup.Controller]error

	memory *cgroup.MemoryFiles
	huge   *cgroup.HugeFiles
	cpu    *cgroup.CPUFiles
	io     *cgroup.IOFiles
	// load is the container among those that are sampled. It stays when that has
	// ended, for what was shown last.
	load *loadavg.Tracked
	// kept is where its state outlives the process; nil for nowhere.
	kept   *shm.Record
	stalls cgroup.PressureFiles
	// not is why there is nothing to open, where that is settled. It stands
	// until the next look at the container's groups.
	not [numSources]error

	// pace is that of gathering for each file, by its index.
	pace []pace

	account account
}

// defaultSlowAfter is how long gathering may hold up the other containers' readers. It
// takes microseconds where the kernel has the numbers at hand; but memory.stat of
// a group with many descendants has to be summed up first: 0.4 to 1.4 ms after 1,000
// below it were active, and 8 us else (6.18, v1). Whoever asks for that pays for it,
// so it is not kept for the next one. What takes no longer than this is done while all
// others wait: 64 threads of one container that ask for it hold them up for 32 ms.
const defaultSlowAfter = 500 * time.Microsecond

// pace is how long some work took of late. It is safe for concurrent use.
type pace struct{ long atomic.Uint32 }

// isSlow says that it took long twice in a row: once may be the machine's other work,
// and to hand work to another thread costs all readers something.
func (p *pace) isSlow() bool { return p.long.Load() >= 2 }

// took notes how long the work took, and that more than limit is long.
func (p *pace) took(d, limit time.Duration) {
	before, long := p.long.Load(), uint32(0)
	if d > limit {
		long = min(before+1, 2)
	}
	if long != before {
		p.long.Store(long)
	}
}

// errNotOpen says that a source is not open.
var errNotOpen = errors.New("a source is not open")

// content appends the content of f from open files. Without wait it returns ErrCold
// if that is slow.
func (c *container) content(dst []byte, f *File, x *scratch, wait bool) ([]byte, error) {
	if !wait && c.pace[f.index].isSlow() {
		return dst, ErrCold
	}
	if err := c.ready(f.needs); err != nil {
		return dst, err
	}
	start := time.Now()
	text, err := f.content(dst, c, x)
	c.pace[f.index].took(time.Since(start), c.views.slowAfter)
	if err == errNotOpen {
		err = ErrCold
	}
	return text, err
}

// incomplete tells whether a controller is enabled only above the container.
func (c *container) incomplete() bool {
	return c.memory != nil && c.memory.Incomplete || c.cpu != nil && c.cpu.Incomplete || c.io != nil && c.io.Incomplete
}

// open opens what f needs. The caller holds the space's mu for writing.
func (c *container) open(f *File) error {
	for i := range numSources {
		if f.needs&(1<<i) == 0 {
			continue
		}
		if c.not[i] = c.openSource(1 << i); c.not[i] != nil {
			return c.not[i]
		}
	}
	return nil
}

func (c *container) openSource(s sources) error {
	switch v := c.views; s {
	case sourceCPU:
		return c.openCPU(v)
	case sourceMemory:
		return c.openMemory(v)
	case sourceIO:
		return c.openIO(v)
	case sourceLoad:
		return c.track(v, c.space)
	default:
		return c.openPressure(v, s)
	}
}

// has reports whether a source is open.
func (c *container) has(s sources) bool {
	switch s {
	case sourceCPU:
		return c.cpu != nil
	case sourceMemory:
		return c.memory != nil
	case sourceIO:
		return c.io != nil
	case sourceLoad:
		return c.load != nil
	default:
		return c.stalls.Has(resourceOf(s))
	}
}

func (c *container) openMemory(v *Views) error {
	if c.memory != nil {
		return nil
	}
	if err := c.failed[cgroup.Memory]; err != nil {
		return err
	}
	p := c.places[cgroup.Memory]
	if p.Root {
		return RootCgroup
	}
	// There is no place for hugetlb where the host has no such controller.
	huge, err := cgroup.OpenHugeTLB(&v.opener, c.places[cgroup.HugeTLB], filepath.Join(v.cfg.Root, "sys"))
	if err != nil {
		return err
	}
	memory, err := cgroup.OpenMemory(&v.opener, p)
	if err != nil {
		huge.Close()
		return err
	}
	c.memory, c.huge = memory, huge
	return nil
}

func (c *container) openCPU(v *Views) error {
	if c.cpu != nil {
		return nil
	}
	if err := c.failed[cgroup.CPUAcct]; err != nil {
		return err
	}
	p := cgroup.CPUPlaces{
		CPU:     c.places[cgroup.CPU],
		CPUAcct: c.places[cgroup.CPUAcct],
		CPUSet:  c.places[cgroup.CPUSet],
	}
	if p.CPUAcct.Root {
		return RootCgroup
	}
	var err error
	c.cpu, err = cgroup.OpenCPU(&v.opener, p)
	return err
}

func (c *container) openIO(v *Views) error {
	if c.io != nil {
		return nil
	}
	if err := c.failed[cgroup.BlkIO]; err != nil {
		return err
	}
	p := c.places[cgroup.BlkIO]
	if p.Root {
		return RootCgroup
	}
	var err error
	c.io, err = cgroup.OpenIO(&v.opener, p)
	return err
}

// ready returns nil if all of the sources are open, ErrCold if one is to be opened
// first, and else why one cannot be.
func (c *container) ready(needs sources) error {
	for i := range numSources {
		s := sources(1) << i
		if needs&s == 0 || c.has(s) {
			continue
		}
		not := c.not[i]
		if _, ok := not.(Reason); ok || errors.Is(not, cgroup.ErrNoController) || errors.Is(not, cgroup.ErrOutside) || errors.Is(not, cgroup.ErrTooDeep) {
			return not
		}
		return ErrCold
	}
	return nil
}

// isOpen tells whether any files are open.
func (c *container) isOpen() bool {
	return c.memory != nil || c.cpu != nil || c.io != nil || c.stalls.IsOpen()
}

// close closes the files. What was shown last is kept.
func (c *container) close() {
	c.memory.Close()
	c.cpu.Close()
	c.huge.Close()
	c.io.Close()
	c.stalls.Close()
	c.memory, c.cpu, c.huge, c.io = nil, nil, nil, nil
}

// end closes the files for ever.
func (c *container) end() {
	c.close()
	c.load.Stop()
	c.account.attach(nil).Free()
	c.kept.Free()
}

// forget closes files of groups that were removed. Groups of the same name are
// new ones, whose counters begin anew. In the host's own pid namespace, where no
// init ends with them, they are another container.
func (c *container) forget(sp *space) {
	c.close()
	if sp.host {
		c.account.reset()
		c.load.Stop()
		c.load = nil
	} else {
		c.account.restart()
	}
}
