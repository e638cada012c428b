// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"math"
	"math/bits"
	"slices"

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
		r := reader{buf: buf}
		ns := r.number(c.usage)
		return unwrap(ns, near), r.buf, r.err
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
	r := reader{buf: buf}
	if c.stat != nil {
		if usage := t.parse(r.text(c.stat)); usage <= math.MaxUint64/1000 {
			t.raise(unwrap(usage*1000, near))
		}
		return r.buf, r.err
	}
	user, system, err := t.parseAll(r.text(c.all))
	if err != nil {
		return r.buf, fmt.Errorf("%s: %w", c.all.Path(), err)
	}
	t.parsePerCPU(r.text(c.percpu), user, system)
	return r.buf, r.err
}

// parse reads cpu.stat (cgroup_base_stat_cputime_show, kernel/cgroup/rstat.c):
// user_usec holds the nice time too, nice_usec (6.13) is that part alone. It
// returns usage_usec, which is their sum until it wraps around.
func (t *CPUTime) parse(text []byte) (usage uint64) {
	for key, v := range scan.KeyValues(text) {
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
	for line := range scan.Lines(text) {
		first, rest := scan.Field(line)
		cpu, n := scan.Uint(first)
		f, _ := scan.Field(rest)
		u, k := scan.Uint(f)
		_, s, ok := scan.KeyValue(rest)
		if n == 0 || k == 0 || !ok || cpu >= MaxCPUs || len(t.PerCPU) == MaxCPUs {
			return 0, 0, fmt.Errorf("not a line of three numbers: %q", line[:min(len(line), 80)])
		}
		t.PerCPU = append(t.PerCPU, cpu)
		user += min(u, maxOneCPU) / 1000
		system += min(s, maxOneCPU) / 1000
	}
	return user, system, nil
}

// parsePerCPU reads cpuacct.usage_percpu, one number of nanoseconds for each
// possible CPU in the order of usage_all, and divides their sum in the proportion
// user : system.
func (t *CPUTime) parsePerCPU(text []byte, user, system uint64) {
	n, top := len(t.PerCPU), 0
	for _, cpu := range t.PerCPU {
		top = max(top, int(cpu)+1)
	}
	// The possible CPUs need not be contiguous: the amounts are put in their places
	// behind the numbers first.
	t.PerCPU = slices.Grow(t.PerCPU, top)[:n+top]
	amounts := t.PerCPU[n:]
	clear(amounts)
	var sum, nanos uint64
	for _, cpu := range t.PerCPU[:n] {
		var f []byte
		f, text = scan.Field(text)
		ns, _ := scan.Uint(f)
		ns = min(ns, maxOneCPU)
		amounts[cpu] = ns / 1000
		sum += ns / 1000
		nanos += ns % 1000
	}
	t.PerCPU = slices.Delete(t.PerCPU, 0, n)
	total := sum + nanos/1000
	t.User = total
	if user+system > 0 {
		t.User = MulDiv(total, user, user+system)
	}
	t.System = total - t.User
}

// MulDiv returns a*b/c, rounded down, without overflow in between. It wants
// b <= c and c > 0, so that the result is at most a.
func MulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi, lo, c)
	return q
}
