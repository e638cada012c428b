package cgroup

import (
	"bytes"
	"fmt"
	"math"
	"math/bits"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// CPUTime is the CPU time that a group and its descendants have used since the
// group was made, in microseconds: that of 8,192 CPUs fits for 71 years.
type CPUTime struct {
	// User, Nice and System do not overlap. Their sum is all that was used.
	User, Nice, System uint64
	// PerCPU is the time used on each CPU, by its physical number. It is empty
	// on v2, which does not tell.
	PerCPU []uint64
}

// Total is the sum of t's parts.
func (t *CPUTime) Total() uint64 { return t.User + t.Nice + t.System }

// CPUFiles holds what tells a container's CPUs and its CPU time open. The
// methods are safe for concurrent use, beside Close they are not.
type CPUFiles struct {
	quotas []quotaFiles
	set    *held.File // nil where no cpuset controller is
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

// noQuota is how a quotaFile begins where there is none.
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
// is the right one where the controller is enabled nowhere below.
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
// CPUs, rounded up, at least 1; and 0 where there is none. It returns the buffer
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

// Usage returns all CPU time used, in microseconds. near is an earlier answer, 0 if
// there is none: the kernel counts all CPUs together in nanoseconds, which wrap
// around after 584 years of CPU time.
func (c *CPUFiles) Usage(near uint64, buf []byte) (uint64, []byte, error) {
	if c.stat == nil {
		var ns uint64
		buf, err := readUint(c.usage, &ns, buf)
		return unwrap(ns, near), buf, err
	}
	var t CPUTime
	buf, err := c.Time(&t, near, buf)
	return t.Total(), buf, err
}

// unwrap returns the time in microseconds, near the time near, that is ns
// nanoseconds on a counter of 64 bits.
func unwrap(ns, near uint64) uint64 {
	rounds, last := bits.Mul64(near, 1000)
	switch {
	case ns < last && last-ns > 1<<63:
		rounds++
	case ns > last && ns-last > 1<<63 && rounds > 0:
		rounds--
	}
	us, _ := bits.Div64(rounds, ns, 1000)
	return us
}

// Time reads the CPU time by its kinds, and on v1 by CPU, into t, reusing its
// memory. near is that of Usage.
//
// On v1 the amounts are those of cpuacct.usage_percpu, which the scheduler
// counts exactly; user and system of cpuacct.usage_all come from the tick and
// only divide them, as the kernel itself does for a process (cputime_adjust,
// kernel/sched/cputime.c).
func (c *CPUFiles) Time(t *CPUTime, near uint64, buf []byte) ([]byte, error) {
	t.User, t.Nice, t.System = 0, 0, 0
	t.PerCPU = t.PerCPU[:0]
	if c.stat != nil {
		b, err := c.stat.Read(buf)
		if err != nil {
			return buf, err
		}
		if usage := t.parse(b); usage <= math.MaxUint64/1000 {
			t.raise(unwrap(usage*1000, near))
		}
		return b, nil
	}
	b, err := c.all.Read(buf)
	if err != nil {
		return buf, err
	}
	buf = b
	user, system, err := t.parseAll(b)
	if err != nil {
		return buf, fmt.Errorf("%s: %w", c.all.Path(), err)
	}
	if b, err = c.percpu.Read(buf); err != nil {
		return buf, err
	}
	t.parsePerCPU(b, user, system)
	return b, nil
}

// parse reads cpu.stat (cgroup_base_stat_cputime_show, kernel/cgroup/rstat.c):
// user_usec holds the nice time too, nice_usec (6.13) is that part alone. It
// returns usage_usec, which is their sum until it wraps around.
func (t *CPUTime) parse(text []byte) (usage uint64) {
	for len(text) > 0 {
		var line []byte
		line, text = scan.Line(text)
		key, v, ok := scan.KeyValue(line)
		if !ok {
			continue
		}
		v = min(v, maxTime)
		switch string(key) {
		case "usage_usec":
			usage = v
		case "user_usec":
			t.User = v
		case "system_usec":
			t.System = v
		case "nice_usec":
			t.Nice = v
		}
	}
	// nice comes from the tick, user is exact
	t.Nice = min(t.Nice, t.User)
	t.User -= t.Nice
	return usage
}

// raise makes the sum of t's parts at least total, in their proportion. user_usec
// and system_usec stand still when usage_usec has wrapped around.
func (t *CPUTime) raise(total uint64) {
	sum := t.Total()
	if total <= sum {
		return
	}
	if sum == 0 {
		t.User = total
		return
	}
	t.System = MulDiv(total, t.System, sum)
	t.Nice = MulDiv(total, t.Nice, sum)
	t.User = total - t.System - t.Nice
}

// maxTime bounds a CPU time in microseconds, so that sums of a few of them do not
// wrap around. It is 17 years of MaxCPUs CPUs.
const maxTime = 1 << 62

// maxOneCPU is the like for one CPU, in nanoseconds: 36 years.
const maxOneCPU = 1 << 60

// parseAll reads cpuacct.usage_all: a heading, then a line "CPU USER SYSTEM" for
// each possible CPU, in nanoseconds (kernel/sched/cpuacct.c). It returns the sums
// in microseconds, and leaves the CPU numbers in t.PerCPU for parsePerCPU.
func (t *CPUTime) parseAll(text []byte) (user, system uint64, err error) {
	_, text = scan.Line(text)
	for len(text) > 0 {
		var line []byte
		line, text = scan.Line(text)
		f, rest := scan.Field(line)
		cpu, n := scan.Uint(f)
		_, s, ok := scan.KeyValue(rest)
		u, _ := scan.Field(rest)
		un, k := scan.Uint(u)
		if n == 0 || k == 0 || !ok || cpu >= MaxCPUs || len(t.PerCPU) == MaxCPUs {
			return 0, 0, fmt.Errorf("not a line of three numbers: %q", line[:min(len(line), 80)])
		}
		t.PerCPU = append(t.PerCPU, cpu)
		user += min(un, maxOneCPU) / 1000
		system += min(s, maxOneCPU) / 1000
	}
	return user, system, nil
}

// parsePerCPU reads cpuacct.usage_percpu, one number of nanoseconds for each
// possible CPU in the order of usage_all, and divides their sum in the proportion
// user : system.
func (t *CPUTime) parsePerCPU(text []byte, user, system uint64) {
	numbers := t.PerCPU
	top := 0
	for _, cpu := range numbers {
		top = max(top, int(cpu)+1)
	}
	// The possible CPUs need not be contiguous, so the amounts go behind the
	// numbers first and to their places then.
	n := len(numbers)
	var sum, nanos uint64
	for range n {
		var f []byte
		f, text = scan.Field(text)
		v, _ := scan.Uint(f)
		v = min(v, maxOneCPU)
		t.PerCPU = append(t.PerCPU, v/1000)
		sum += v / 1000
		nanos += v % 1000
	}
	for len(t.PerCPU) < 2*n+top {
		t.PerCPU = append(t.PerCPU, 0)
	}
	amounts := t.PerCPU[2*n:]
	for i := range n {
		amounts[t.PerCPU[i]] = t.PerCPU[n+i]
	}
	copy(t.PerCPU, amounts)
	t.PerCPU = t.PerCPU[:top]
	total := sum + nanos/1000
	t.User = total
	if user+system > 0 {
		t.User = MulDiv(total, user, user+system)
	}
	t.System = total - t.User
}
