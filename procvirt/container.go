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
	not [numNeeds]error

	// pace is that of gathering for each file.
	pace [numFiles]pace

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

// gather fills w with what f needs, from open files. Without wait it answers
// ErrCold where that is slow.
func (c *container) gather(v *Views, f File, sp *space, x *scratch, wait bool) error {
	if !wait && c.pace[f].isSlow() {
		return ErrCold
	}
	start := time.Now()
	err := fileSpecs[f].gather(v, c, sp, &x.view, x)
	c.pace[f].took(time.Since(start), v.slowAfter)
	return err
}

// incomplete tells whether a controller is enabled only above the container.
func (c *container) incomplete() bool {
	return c.memory != nil && c.memory.Incomplete || c.cpu != nil && c.cpu.Incomplete || c.io != nil && c.io.Incomplete
}

// open opens what f needs. The caller holds the space's mu for writing.
func (c *container) open(v *Views, sp *space, f File) error {
	n := fileSpecs[f].needs
	switch n {
	case needCPU:
		c.not[n] = c.openCPU(v)
	case needMemory:
		c.not[n] = c.openMemory(v)
	case needIO:
		c.not[n] = c.openIO(v)
	case needLoad:
		c.not[n] = c.track(v, sp)
	case needCPUPressure, needMemoryPressure, needIOPressure:
		c.not[n] = c.openPressure(v, n)
	}
	return c.not[n]
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

// missing is why the files that n stands for are not open: nobody needed them
// yet, or there are none.
func (c *container) missing(n needs) error {
	not := c.not[n]
	if _, ok := not.(Reason); ok || errors.Is(not, cgroup.ErrNoController) || errors.Is(not, cgroup.ErrOutside) || errors.Is(not, cgroup.ErrTooDeep) {
		return not
	}
	return ErrCold
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
