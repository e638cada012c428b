package cgroup

import (
	"fmt"
	"math"
	"math/bits"

	"vprocfs/procvirt/internal/scan"
)

// CPUTime is the CPU time that a group and its descendants have used since the
// group was made, in microseconds: that of 8,192 CPUs fits for 71 years.
type CPUTime struct {
	// User, Nice and System do not overlap. Their sum is all that was used.
	User, Nice, System uint64
	// PerCPU is the time used on each CPU, by its physical number. It is empty
	// on v2, which does not count by CPU.
	PerCPU []uint64
}

// Total is the sum of t's parts.
func (t *CPUTime) Total() uint64 { return t.User + t.Nice + t.System }

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
