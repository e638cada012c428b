package cgroup

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// CPUFiles keeps open the files that report a container's CPUs and CPU time. The
// methods are safe for concurrent use, except Close.
type CPUFiles struct {
	quotas []quotaFiles
	set    *held.File // nil if the host has no cpuset controller
	stat   *held.File // v2
	// v1, per CPU
	usage, percpu, all *held.File
	// Incomplete says that a controller is enabled only above the container, so
	// that the files to read change when it is enabled there.
	Incomplete bool
}

// quotaFiles are those of one level: max on v2, quota and period on v1, where the
// period is not held open if there was no quota at first.
type quotaFiles struct {
	max, quota, period *held.File
}

// The files of a quota on v1.
const (
	quotaFile  = "/cpu.cfs_quota_us"
	periodFile = "/cpu.cfs_period_us"
)

// noQuota is how a quotaFile begins if there is no quota.
var noQuota = []byte("-1")

// CPUPlaces says where a container's CPU controllers are. On v1 they may be in
// three hierarchies. A place without Dirs stands for a controller that the host
// does not have.
type CPUPlaces struct {
	CPU, CPUAcct, CPUSet Place
}

// OpenCPU opens what the methods need. cpu and cpuset may be missing: then
// there is no quota, and Effective says so. The accounting may not.
func OpenCPU(o *held.Opener, p CPUPlaces) (*CPUFiles, error) {
	c := &CPUFiles{}
	if err := c.open(o, p); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *CPUFiles) open(o *held.Opener, p CPUPlaces) (err error) {
	if err := c.openQuotas(o, p.CPU); err != nil {
		return err
	}
	if err := c.openSet(o, p.CPUSet); err != nil {
		return err
	}
	if p.CPUAcct.V2 {
		// Every v2 group has cpu.stat, with the controller or without.
		c.stat, err = openCounted(o, p.CPUAcct.Dirs, "cpu.stat")
		return err
	}
	if c.usage, err = openCounted(o, p.CPUAcct.Dirs, "cpuacct.usage"); err != nil {
		return err
	}
	if c.percpu, err = openCounted(o, p.CPUAcct.Dirs, "cpuacct.usage_percpu"); err != nil {
		return err
	}
	c.all, err = openCounted(o, p.CPUAcct.Dirs, "cpuacct.usage_all")
	return err
}

// openCounted is openOwn for a file that every group of the hierarchy has.
func openCounted(o *held.Opener, dirs []string, file string) (*held.File, error) {
	f, err := openOwn(o, dirs, file)
	if f == nil && err == nil {
		err = notEnabled(dirs, file)
	}
	return f, err
}

func (c *CPUFiles) openQuotas(o *held.Opener, p Place) error {
	if p.Root {
		return nil
	}
	for i, dir := range p.Dirs {
		var q quotaFiles
		var err error
		if p.V2 {
			q.max, err = openOptionalAt(o, i, dir+"/cpu.max")
		} else if q.quota, err = openOptionalAt(o, i, dir+quotaFile); err == nil && q.quota != nil {
			if b, e := q.quota.Read(nil); e != nil || !bytes.HasPrefix(b, noQuota) {
				q.period, err = openAt(o, i, dir+periodFile)
			}
		}
		if q.max != nil || q.quota != nil {
			c.quotas = append(c.quotas, q)
		} else if i == 0 {
			c.Incomplete = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *CPUFiles) openSet(o *held.Opener, p Place) (err error) {
	if len(p.Dirs) == 0 {
		return nil
	}
	name := "/cpuset.effective_cpus"
	if p.V2 {
		name = "/cpuset.cpus.effective"
	}
	own := false
	c.set, own, err = openSet(o, p, name)
	c.Incomplete = c.Incomplete || c.set != nil && !own
	return err
}

// openSet opens a file of the cpuset controller in the nearest group that has it, and
// reports whether that is the container's own. The root group has the file too, and it
// is the right one if the controller is enabled nowhere below.
func openSet(o *held.Opener, p Place, name string) (f *held.File, own bool, err error) {
	for i, dir := range p.Dirs {
		if f, err = openOptionalAt(o, i, dir+name); f != nil || err != nil {
			return f, i == 0, err
		}
	}
	if p.Dirs[len(p.Dirs)-1] != p.Top {
		f, err = openOptionalAt(o, len(p.Dirs), p.Top+name)
	}
	return f, false, err
}

// readSet makes set what a file of the cpuset controller lists.
func readSet(f *held.File, set *CPUs, buf []byte) ([]byte, error) {
	b, err := f.Read(buf)
	if err != nil {
		return buf, err
	}
	if err := set.Parse(b); err != nil {
		return b, fmt.Errorf("%s: %w", f.Path(), err)
	}
	return b, nil
}

// Close closes the files.
func (c *CPUFiles) Close() {
	if c == nil {
		return
	}
	for _, q := range c.quotas {
		q.max.Close()
		q.quota.Close()
		q.period.Close()
	}
	for _, f := range []*held.File{c.set, c.stat, c.usage, c.percpu, c.all} {
		f.Close()
	}
}

// Quota returns the smallest quota of the group and its ancestors in whole
// CPUs, rounded up, at least 1; and 0 if there is none. It returns the buffer
// it worked in, grown where it had to be.
func (c *CPUFiles) Quota(buf []byte) (int, []byte, error) {
	least := 0
	for _, q := range c.quotas {
		cpus, b, err := q.read(buf)
		buf = b
		if err != nil {
			return 0, buf, err
		}
		if cpus > 0 && (least == 0 || cpus < least) {
			least = cpus
		}
	}
	return least, buf, nil
}

func (q quotaFiles) read(buf []byte) (int, []byte, error) {
	if q.max != nil {
		b, err := q.max.Read(buf)
		if err != nil {
			return 0, buf, err
		}
		if bytes.HasPrefix(b, []byte("max")) {
			return 0, b, nil
		}
		line, _ := scan.Line(b)
		quota, period, ok := scan.KeyValue(line)
		us, n := scan.Uint(quota)
		if !ok || n != len(quota) {
			return 0, b, fmt.Errorf("%s: not a quota: %q", q.max.Path(), b[:min(len(b), 40)])
		}
		return wholeCPUs(us, period), b, nil
	}
	b, err := q.quota.Read(buf)
	if err != nil {
		return 0, buf, err
	}
	buf = b
	if bytes.HasPrefix(b, noQuota) {
		return 0, buf, nil
	}
	us, n := scan.Uint(b)
	if n == 0 {
		return 0, buf, fmt.Errorf("%s: not a quota: %q", q.quota.Path(), b[:min(len(b), 40)])
	}
	var period uint64
	buf, err = q.readPeriod(&period, buf)
	return wholeCPUs(us, period), buf, err
}

func (q quotaFiles) readPeriod(us *uint64, buf []byte) ([]byte, error) {
	if q.period != nil {
		return readUint(q.period, us, buf)
	}
	var room [256]byte
	path := append(append(room[:0], strings.TrimSuffix(q.quota.Path(), quotaFile)...), periodFile+"\x00"...)
	b, err := held.ReadAt(path, buf)
	switch {
	case err == unix.ENOENT: // the group was removed just now
		return buf, unix.ENODEV
	case err != nil:
		return buf, fmt.Errorf("read %s: %w", string(path[:len(path)-1]), err)
	}
	n := 0
	if *us, n = scan.Uint(b); n == 0 {
		return b, fmt.Errorf("%s: not a number: %q", string(path[:len(path)-1]), b[:min(len(b), 40)])
	}
	return b, nil
}

// wholeCPUs is quota divided by period, both in microseconds, rounded up. 0
// stands for no limit.
func wholeCPUs(quota, period uint64) int {
	if period == 0 {
		return 0
	}
	n := quota / period
	if quota%period != 0 || n == 0 {
		n++
	}
	return int(min(n, MaxCPUs))
}

// Effective makes set the CPUs that the container may run on. It is empty where
// the host has no cpuset controller.
func (c *CPUFiles) Effective(set *CPUs, buf []byte) ([]byte, error) {
	set.Clear()
	if c.set == nil {
		return buf, nil
	}
	return readSet(c.set, set, buf)
}
