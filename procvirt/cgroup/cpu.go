// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"fmt"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// CPUFiles keeps open the files that report a container's CPUs and CPU time. The
// methods are safe for concurrent use, except Close.
type CPUFiles struct {
	files
	quotas []quotaFiles
	set    *held.File // nil if the host has no cpuset controller
	stat   *held.File // v2
	// v1, per CPU
	usage, percpu, all *held.File
	// Incomplete says that a controller is enabled only above the container, so
	// that the files to read change when it is enabled there.
	Incomplete bool
}

// quotaFiles are those of one level: max on v2, quota and period on v1.
type quotaFiles struct {
	max, quota, period *held.File
}

// CPUPlaces says where a container's CPU controllers are. On v1 they may be in
// three hierarchies. A place without Dirs stands for a controller that the host
// does not have.
type CPUPlaces struct {
	CPU, CPUAcct, CPUSet Place
}

// OpenCPU opens what the methods need. cpu and cpuset may be missing: then
// there is no quota, and Effective says so. The accounting may not.
func OpenCPU(o *held.Opener, p CPUPlaces) (*CPUFiles, error) {
	c := &CPUFiles{files: files{opener: o}}
	c.openQuotas(p.CPU)
	if len(p.CPUSet.Dirs) > 0 {
		own := false
		c.set, own = c.openSet(p.CPUSet, "/cpuset.cpus.effective", "/cpuset.effective_cpus")
		c.Incomplete = c.Incomplete || c.set != nil && !own
	}
	if dirs := p.CPUAcct.Dirs; p.CPUAcct.V2 {
		// Every v2 group has cpu.stat, with the controller or without.
		c.stat = c.counted(dirs, "cpu.stat")
	} else {
		c.usage = c.counted(dirs, "cpuacct.usage")
		c.percpu = c.counted(dirs, "cpuacct.usage_percpu")
		c.all = c.counted(dirs, "cpuacct.usage_all")
	}
	return opened(c, &c.files)
}

func (c *CPUFiles) openQuotas(p Place) {
	if p.Root {
		return
	}
	for i, dir := range p.Dirs {
		var q quotaFiles
		if p.V2 {
			q.max = c.optional(i, dir+"/cpu.max")
		} else if q.quota = c.optional(i, dir+"/cpu.cfs_quota_us"); q.quota != nil {
			q.period = c.must(i, dir+"/cpu.cfs_period_us")
		}
		if q.max != nil || q.quota != nil {
			c.quotas = append(c.quotas, q)
		} else if i == 0 {
			c.Incomplete = true
		}
	}
}

// openSet opens a file of the cpuset controller in the nearest group that has it, and
// reports whether that is the container's own. The root group has the file too, and it
// is the right one if the controller is enabled nowhere below.
func (f *files) openSet(p Place, v2, v1 string) (file *held.File, own bool) {
	name := v1
	if p.V2 {
		name = v2
	}
	for i, dir := range p.Dirs {
		if file = f.optional(i, dir+name); file != nil {
			return file, i == 0
		}
	}
	if p.Dirs[len(p.Dirs)-1] != p.Top {
		file = f.optional(len(p.Dirs), p.Top+name)
	}
	return file, false
}

// set makes set what a file of the cpuset controller lists.
func (r *reader) set(f *held.File, set *CPUs) {
	text := r.text(f)
	if err := set.Parse(text); err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", f.Path(), err)
	}
}

// Quota returns the smallest quota of the group and its ancestors in whole
// CPUs, rounded up, at least 1; and 0 if there is none. It reads no further
// than to the first quota of 1, which none is smaller than. It returns the
// buffer it worked in, grown if it had to be.
func (c *CPUFiles) Quota(buf []byte) (int, []byte, error) {
	r := reader{buf: buf}
	least := 0
	for i := 0; i < len(c.quotas) && least != 1; i++ {
		if cpus := c.quotas[i].read(&r); cpus > 0 && (least == 0 || cpus < least) {
			least = cpus
		}
	}
	return least, r.buf, r.err
}

// read returns the quota of one level in whole CPUs, 0 if it has none.
func (q *quotaFiles) read(r *reader) int {
	if q.max == nil {
		text := r.text(q.quota)
		if bytes.HasPrefix(text, []byte("-1")) {
			return 0
		}
		us, n := scan.Uint(text)
		if n == 0 {
			r.bad(q.quota, "a quota", text)
		}
		return wholeCPUs(us, r.number(q.period))
	}
	text := r.text(q.max)
	line, _ := scan.Line(text)
	quota, period, ok := scan.KeyValue(line)
	if string(quota) == "max" {
		return 0
	}
	us, n := scan.Uint(quota)
	if !ok || n != len(quota) {
		r.bad(q.max, "a quota", text)
		return 0
	}
	return wholeCPUs(us, period)
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

// Effective makes set the CPUs that the container may run on. It is empty if
// the host has no cpuset controller.
func (c *CPUFiles) Effective(set *CPUs, buf []byte) ([]byte, error) {
	set.Clear()
	if c.set == nil {
		return buf, nil
	}
	r := reader{buf: buf}
	r.set(c.set, set)
	return r.buf, r.err
}
