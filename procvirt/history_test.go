// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"vprocfs/procvirt/cgroup"
)

// history is one container's CPU time under any order of events: time passes, quota
// and cpuset change, groups are made anew, the process that shows it is replaced, and
// uptime and stat are read. check holds the promises of account after each read.
type history struct {
	t     *testing.T
	event func(n uint64) uint64 // the next choice of n
	v1    bool
	cpus  int

	now     uint64 // the container's age, in microseconds
	group   []uint64
	user    uint64 // of the group
	former  uint64 // what groups before this one used
	visible []int  // in no order
	account *account

	shown struct {
		rows  map[int]cpuRow
		total cpuRow
		idle  uint64
		at    uint64
		seen  map[int]bool
	}
}

func newHistory(t *testing.T, cpus int, v1 bool, event func(n uint64) uint64) *history {
	h := &history{t: t, event: event, v1: v1, cpus: cpus, group: make([]uint64, cpus), account: &account{}}
	h.shown.rows, h.shown.seen = map[int]cpuRow{}, map[int]bool{}
	h.see()
	return h
}

// see makes other CPUs visible: the first of a cpuset, as many as a quota says.
func (h *history) see() {
	first, n := 0, h.cpus
	if h.event(2) == 0 {
		first = int(h.event(uint64(h.cpus)))
	}
	if h.event(2) == 0 {
		n = 1 + int(h.event(uint64(h.cpus)))
	}
	h.visible = h.visible[:0]
	for c := first; c < h.cpus && len(h.visible) < n; c++ {
		h.visible = append(h.visible, c)
	}
}

// pass lets dt pass, in which the container works on some of the host's CPUs.
func (h *history) pass(dt uint64) {
	h.now += dt
	busy := h.event(5) // idle, and up to all
	for c := range h.group {
		if busy == 0 || h.event(4) > busy {
			continue
		}
		t := dt
		if busy < 4 {
			t = h.event(dt + 1)
		}
		h.group[c] += t
		h.user += t / (1 + h.event(3))
	}
}

// used is the group's CPU time, in nanoseconds.
func (h *history) used() *big.Int {
	sum := new(big.Int)
	for _, us := range h.group {
		sum.Add(sum, new(big.Int).SetUint64(us))
	}
	return sum.Mul(sum, big.NewInt(1000))
}

// time is what package cgroup reads of it: it takes the kernel's wrapping around for
// granted, which its own tests have.
func (h *history) time() *cgroup.CPUTime {
	total := new(big.Int).Div(h.used(), big.NewInt(1000)).Uint64()
	t := &cgroup.CPUTime{User: min(h.user, total)}
	t.System = total - t.User
	if h.v1 {
		t.PerCPU = append([]uint64(nil), h.group...)
	}
	return t
}

func (h *history) view() *cpuTimes {
	v := &cpuTimes{}
	v.age, v.hostCPUs = int64(h.now)*1000, h.cpus
	for _, c := range h.visible {
		v.visible.Add(c)
	}
	return v
}

// step is one event.
func (h *history) step() {
	switch h.event(12) {
	case 0, 1, 2:
		h.pass(h.event(3e6))
	case 3:
		h.pass(1)
	case 4:
		if h.now < 300e12 {
			h.pass(h.event(40 * 86400e6))
		}
	case 5, 6:
		h.see()
	case 7:
		if h.event(3) == 0 {
			// The last look at the group was an uptime's or a stat's.
			if h.readUptime(); h.event(2) == 0 {
				h.pass(h.event(2e6))
				h.readUptimeOnly()
			}
			h.former += h.time().Total()
			clear(h.group)
			h.user = 0
			h.account.restart()
		}
	case 8:
		h.replace()
	case 9:
		h.readUptimeOnly()
	default:
		if h.event(2) == 0 {
			h.readUptime()
		}
		h.readStat()
	}
}

// replace has another process go on.
func (h *history) replace() {
	b := h.account.append(nil)
	next := &account{}
	if !next.decode(b) {
		h.t.Fatal("not read back")
	}
	h.account = next
}

// look is a step of the account.
func (h *history) look(v *cpuTimes) {
	first := !h.account.stepped
	h.account.step(v, h.time())
	if carry := h.account.carry.total(); first && carry > uint64(len(v.rows))*carryLimit {
		h.t.Fatalf("at %d us: the first look leaves %d us for later", h.now, carry)
	}
}

// readUptimeOnly is readUptime without a look at stat.
func (h *history) readUptimeOnly() uint64 {
	v := h.view()
	idle, ok := h.account.idle(v.age, h.time().Total(), &v.visible)
	if !ok {
		h.look(v)
		idle = v.total.idle
	}
	if idle < h.shown.idle {
		h.t.Fatalf("at %d us: idle went back from %d to %d", h.now, h.shown.idle, idle)
	}
	if most := h.now * uint64(h.cpus); idle > most {
		h.t.Fatalf("at %d us: idle is %d us of at most %d", h.now, idle, most)
	}
	h.shown.idle = idle
	return idle
}

// readUptime does as uptime's gather, and compares with stat.
func (h *history) readUptime() {
	idle := h.readUptimeOnly()
	again := h.view()
	h.look(again)
	if again.total.idle != idle {
		h.t.Fatalf("at %d us: idle is %d us in uptime and %d in stat", h.now, idle, again.total.idle)
	}
	h.check(again)
}

func (h *history) readStat() {
	v := h.view()
	h.look(v)
	h.check(v)
}

func (h *history) check(v *cpuTimes) {
	t, a := h.t, h.account
	if len(v.rows) != len(h.visible) {
		t.Fatalf("at %d us: %d rows for %d CPUs", h.now, len(v.rows), len(h.visible))
	}
	sum := new(big.Int)
	dt := h.now - h.shown.at
	for _, r := range v.rows {
		l := h.shown.rows[r.cpu]
		if r.user < l.user || r.nice < l.nice || r.system < l.system || r.idle < l.idle {
			t.Fatalf("at %d us: cpu%d went back from %+v to %+v", h.now, r.cpu, l, r)
		}
		if rowTotal(r) != h.now {
			t.Fatalf("at %d us: cpu%d sums to %d", h.now, r.cpu, rowTotal(r))
		}
		if gain := busyOf(r) - busyOf(l); h.shown.seen[r.cpu] && gain > dt {
			t.Fatalf("at %d us: cpu%d gained %d in %d", h.now, r.cpu, gain, dt)
		}
		h.shown.rows[r.cpu] = r
	}
	clear(h.shown.seen)
	for _, r := range v.rows {
		h.shown.seen[r.cpu] = true
	}
	for c := range a.rows {
		r := &a.rows[c]
		sum.Add(sum, new(big.Int).SetUint64(r.total()))
	}
	total, last := v.total, h.shown.total
	if sum.Cmp(new(big.Int).SetUint64(busyOf(total))) != 0 {
		t.Fatalf("at %d us: the rows are busy for %v us and the sum for %d", h.now, sum, busyOf(total))
	}
	if total.idle < h.shown.idle {
		t.Fatalf("at %d us: idle went back from %d in uptime to %d in stat", h.now, h.shown.idle, total.idle)
	}
	if total.user < last.user || total.nice < last.nice || total.system < last.system || total.idle < last.idle {
		t.Fatalf("at %d us: the sum went back from %+v to %+v", h.now, last, total)
	}
	if got, want := busyOf(total)+a.carry.total(), h.former+h.time().Total(); got != want {
		t.Fatalf("at %d us: %d us shown and carried, %d used", h.now, got, want)
	}
	h.shown.total, h.shown.idle, h.shown.at = total, total.idle, h.now
}

// TestHistoriesOfCPUTime has rows that never go back and are right, on hosts of up to
// 8,192 CPUs for more than ten years.
func TestHistoriesOfCPUTime(t *testing.T) {
	for seed := range uint64(120) {
		rng := rand.New(rand.NewPCG(seed, 7))
		cpus, steps := 1+rng.IntN(8), 400
		switch seed % 12 {
		case 10:
			cpus = 1 + rng.IntN(128)
		case 11:
			cpus, steps = cgroup.MaxCPUs, 60
		}
		h := newHistory(t, cpus, seed%2 == 0, rng.Uint64N)
		for range steps {
			h.step()
		}
		h.readStat()
		if seed%12 == 11 {
			for h.now < 10*365*86400e6 {
				h.pass(300 * 86400e6)
				h.readUptime()
			}
			if h.now > math.MaxInt64/1000 {
				t.Fatalf("%d us are more than the clock has", h.now)
			}
		}
	}
}

func FuzzHistoryOfCPUTime(f *testing.F) {
	f.Add(uint8(2), true, []byte("time and again the quota is halved, and the group made anew"))
	f.Add(uint8(70), false, []byte{9, 0, 4, 0xff, 0xff, 0xff, 0xff, 11, 0, 5, 1, 1, 11})
	f.Fuzz(func(t *testing.T, cpus uint8, v1 bool, script []byte) {
		script = script[:min(len(script), 1000)]
		rest := script
		h := newHistory(t, 1+int(cpus), v1, func(n uint64) uint64 {
			var b [8]byte
			k := copy(b[:], rest)
			if n <= 256 {
				k = min(k, 1)
				clear(b[k:])
			}
			rest = rest[k:]
			return binary.LittleEndian.Uint64(b[:]) % n
		})
		for len(rest) > 0 {
			h.step()
		}
		h.readStat()
	})
}
