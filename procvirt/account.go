package procvirt

import (
	"sync"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
)

// account keeps the CPU rows of one container's /proc/stat from read to read.
//
// A control group counts CPU time, but not on which of the visible CPUs, and the
// CPUs a container sees may change at any moment. The rows hold what was shown
// last, and each step only ever adds to them: no counter goes back, whatever
// happens to the quota, the cpuset or the clock. These hold after each step:
//
//   - user + nice + system + idle of a visible row is the container's age;
//   - a visible row gained no more busy time than passed since the step before;
//   - the busy time of all rows and the carry together is what the container
//     used since its init started. (No group tells how much of its time it used
//     before that: what cannot be the container's, for want of CPUs, is not
//     counted, and the rest is.)
//
// A CPU that is no longer visible keeps its row, frozen, in the sum, as the
// kernel does with a CPU that goes offline. It catches up in idle time when it
// comes back.
//
// It is safe for concurrent use. A step with older numbers than the one before,
// as concurrent readers may bring, adds nothing.
type account struct {
	mu sync.Mutex
	// record is where the account outlives the process; nil for nowhere.
	record *shm.Record
	// base is CPU time that the group had used before the init started.
	based bool
	base  uint64
	// last is what the group had used at the last look, and before is what
	// groups of the same name, since removed, had used of the container's time.
	last, before uint64

	stepped bool
	age     uint64 // at the last step, in nanoseconds
	rows    []accountRow
	visible cgroup.CPUs // at the last step
	carry   share
	// taken is all that was taken from the group's counters so far: the base,
	// what the rows hold, and the carry.
	taken share
	// perCPU are the group's counters by CPU at the last step, on v1.
	perCPU []uint64
}

type accountRow struct {
	share
	idle uint64
	room uint64 // how much more busy time fits in this step
	give uint64 // how much busy time it is given in this step
}

// share is CPU time by its kinds, in nanoseconds.
type share struct{ user, nice, system uint64 }

func (s *share) total() uint64 { return s.user + s.nice + s.system }

func (s *share) add(t share) {
	s.user += t.user
	s.nice += t.nice
	s.system += t.system
}

// take takes amount, at most the total, out of s, in the proportion of its kinds.
func (s *share) take(amount uint64) share {
	total := s.total()
	if amount == 0 || total == 0 {
		return share{}
	}
	t := share{
		user: cgroup.MulDiv(s.user, amount, total),
		nice: cgroup.MulDiv(s.nice, amount, total),
	}
	t.system = amount - t.user - t.nice
	// What rounding down left over can be more than there is of system time.
	if over := sub(t.system, s.system); over > 0 {
		t.system -= over
		more := min(over, s.user-t.user)
		t.user += more
		t.nice += over - more
	}
	s.user -= t.user
	s.nice -= t.nice
	s.system -= t.system
	return t
}

// carryLimit is how much time of each visible CPU the first step may leave for
// later ones. The rest was used before the init started, by a group older than
// it: showing it would keep the CPUs busy for as long.
const carryLimit = 1e9

// begin fixes what the group had used before the container. The caller holds
// a.mu.
func (a *account) begin(age, used uint64, cpus int) {
	if !a.based {
		a.based = true
		a.base = sub(used, uint64(cpus)*(age+carryLimit))
	}
}

// busy returns how much of the time that the group has used, in nanoseconds, is
// the container's.
func (a *account) busy(age int64, used uint64, cpus int) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begin(uint64(age), used, cpus)
	a.last = max(a.last, used)
	a.save()
	return a.before + sub(used, a.base)
}

// cpuTimes are the CPU times that a container sees.
type cpuTimes struct {
	cpuView
	// rows are the visible CPUs, by ascending number.
	rows []cpuRow
	// total is the sum over the CPUs that are visible or have been.
	total cpuRow
}

func (t *cpuTimes) reset() {
	t.cpuView.reset()
	*t = cpuTimes{cpuView: t.cpuView, rows: t.rows[:0]}
}

// cpuRow is one CPU's row of /proc/stat, in nanoseconds. The kinds do not overlap.
type cpuRow struct {
	cpu                      int
	user, nice, system, idle uint64
}

// step adds what was used since the last step to the rows, and copies the rows
// of v.visible, which must not be empty, and the sum of all to v.
func (a *account) step(v *cpuTimes, t *cgroup.CPUTime) {
	a.mu.Lock()
	defer a.mu.Unlock()
	age := max(uint64(v.age), a.age)
	a.begin(age, t.Total(), v.visible.Count())
	a.last = max(a.last, t.Total())
	for len(a.rows) <= v.visible.Max() {
		a.rows = append(a.rows, accountRow{})
	}
	dt := age - a.age
	for c := range a.rows {
		r := &a.rows[c]
		r.give, r.room = 0, 0
		if v.visible.Has(c) || a.visible.Has(c) {
			r.room = dt
		}
	}

	pool := a.used(t)
	pool.add(a.carry)
	rest := pool.total()
	rest = a.giveOwn(t, rest)
	rest = a.giveEvenly(&v.visible, rest)
	// CPUs that left since the last step may have worked until just now.
	a.giveEvenly(&a.visible, rest)
	for c := range a.rows {
		a.rows[c].add(pool.take(a.rows[c].give))
	}
	a.carry = pool
	for c := v.visible.Next(0); c >= 0; c = v.visible.Next(c + 1) {
		a.rows[c].idle = age - a.rows[c].total()
	}

	a.age = age
	a.visible.Copy(&v.visible)
	a.perCPU = append(a.perCPU[:0], t.PerCPU...)
	// Before anybody sees the rows.
	a.save()
	a.show(v)
}

// used returns what the group used since the last step. The parts of t may
// shrink while their sum grows, since the kernel estimates how to divide it; the
// parts that were taken catch up with them without ever going back.
func (a *account) used(t *cgroup.CPUTime) share {
	now := share{t.User, t.Nice, t.System}
	if !a.stepped {
		a.stepped = true
		all := now
		a.taken = all.take(min(a.base, now.total()))
	}
	ahead := share{
		sub(now.user, a.taken.user),
		sub(now.nice, a.taken.nice),
		sub(now.system, a.taken.system),
	}
	delta := ahead.take(sub(now.total(), a.taken.total()))
	a.taken.add(delta)
	return delta
}

// giveOwn gives each row what its own CPU was used, where the group tells, and
// returns what is left of rest.
func (a *account) giveOwn(t *cgroup.CPUTime, rest uint64) uint64 {
	for c := range a.rows {
		if c >= len(t.PerCPU) {
			break
		}
		used := t.PerCPU[c]
		if c < len(a.perCPU) {
			used = sub(used, a.perCPU[c])
		}
		rest -= a.rows[c].accept(min(used, rest))
	}
	return rest
}

// giveEvenly spreads rest over the rows of cpus as evenly as their room allows,
// and returns what does not fit.
func (a *account) giveEvenly(cpus *cgroup.CPUs, rest uint64) uint64 {
	for rest > 0 {
		n := uint64(0)
		for c := cpus.Next(0); c >= 0; c = cpus.Next(c + 1) {
			if a.rows[c].room > 0 {
				n++
			}
		}
		if n == 0 {
			break
		}
		each := max(rest/n, 1)
		for c := cpus.Next(0); c >= 0 && rest > 0; c = cpus.Next(c + 1) {
			rest -= a.rows[c].accept(min(each, rest))
		}
	}
	return rest
}

// accept notes that the row is given amount, or as much of it as it has room for,
// and returns how much that is.
func (r *accountRow) accept(amount uint64) uint64 {
	amount = min(amount, r.room)
	r.give += amount
	r.room -= amount
	return amount
}

// show copies the rows to v.
func (a *account) show(v *cpuTimes) {
	v.rows = v.rows[:0]
	v.total = cpuRow{}
	for c := range a.rows {
		r := &a.rows[c]
		row := cpuRow{cpu: c, user: r.user, nice: r.nice, system: r.system, idle: r.idle}
		if v.visible.Has(c) {
			v.rows = append(v.rows, row)
		}
		v.total.user += row.user
		v.total.nice += row.nice
		v.total.system += row.system
		v.total.idle += row.idle
	}
}

// restart goes on with a group whose counters begin at 0.
func (a *account) restart() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.before += sub(a.last, a.base)
	a.base, a.last = 0, 0
	a.taken = share{}
	a.perCPU = a.perCPU[:0]
	a.save()
}

// reset begins anew, for another container.
func (a *account) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clear()
	a.save()
}

// clear is reset. The caller holds a.mu.
func (a *account) clear() {
	a.based, a.stepped = false, false
	a.base, a.age, a.last, a.before = 0, 0, 0, 0
	a.rows = a.rows[:0]
	a.visible.Clear()
	a.carry, a.taken = share{}, share{}
	a.perCPU = a.perCPU[:0]
}
