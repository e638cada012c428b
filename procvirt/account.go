// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"sync"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
)

// account keeps the CPU rows of one container's /proc/stat from read to read. All
// its times are in microseconds: the CPU time of 8,192 CPUs fits for 71 years.
//
// A control group does not count on which of the visible CPUs time was used, and these
// may change at any moment. The rows hold what was shown last, and a step only adds to
// them: no counter goes back. These hold after each step:
//
//   - user + nice + system + idle of a visible row is the container's age;
//   - a visible row gained no more busy time than passed since the step before;
//   - the busy time of all rows and the carry together is what the container
//     used since its init started. (A group does not tell what it used before that.
//     Time that all CPUs of the host could not use in the container's age is left out.)
//
// The row of a CPU that is no longer visible stays in the sum, frozen, as the kernel's
// does when a CPU goes offline. It catches up in idle time when the CPU comes back.
//
// It is safe for concurrent use. A step with older numbers than the one before adds
// nothing.
type account struct {
	mu sync.Mutex
	// record is where the account outlives the process; nil for nowhere.
	record *shm.Record
	// base is CPU time that the group had used before the init started, and last
	// what it had used at the last look.
	base, last uint64

	stepped bool
	age     uint64 // at the last step
	rows    []accountRow
	visible cgroup.CPUs // at the last step
	carry   share
	// taken is all that was taken from the group's counters so far: the base,
	// what the rows hold, and the carry.
	taken share
	// perCPU are the group's counters by CPU at the last step, on v1.
	perCPU []uint64

	// idleAge is the age up to which idle has told the idle time, and promised
	// the busy time that it left room for since the last step. The next step
	// gives the rows just that until idleAge.
	idleAge, promised uint64
}

type accountRow struct {
	share
	idle uint64
	room uint64 // how much more busy time fits in this step
	give uint64 // how much busy time it is given in this step
}

// share is CPU time by its kinds.
type share struct{ user, nice, system uint64 }

func (s *share) total() uint64 { return s.user + s.nice + s.system }

func (s *share) add(t share) {
	s.user += t.user
	s.nice += t.nice
	s.system += t.system
}

// split returns amount in the proportion of s's kinds.
func (s *share) split(amount uint64) share {
	total := s.total()
	if total == 0 {
		return share{user: amount}
	}
	t := share{user: cgroup.MulDiv(amount, s.user, total), nice: cgroup.MulDiv(amount, s.nice, total)}
	t.system = amount - t.user - t.nice
	return t
}

// take takes amount, at most the total, out of s, in the proportion of its kinds.
func (s *share) take(amount uint64) share {
	t := s.split(amount)
	// What rounding down left over can be more than there is of system time.
	over := sub(t.system, s.system)
	more := min(over, s.user-t.user)
	t.user += more
	t.nice += over - more
	t.system -= over
	s.user -= t.user
	s.nice -= t.nice
	s.system -= t.system
	return t
}

// cpuTimes are the CPU times that a container sees.
type cpuTimes struct {
	cpuView
	// used is what the group has used.
	used cgroup.CPUTime
	// rows are the visible CPUs, by ascending number.
	rows []cpuRow
	// total is the sum over the CPUs that are visible or have been.
	total cpuRow
}

func (t *cpuTimes) reset() {
	t.cpuView.reset()
	*t = cpuTimes{cpuView: t.cpuView, rows: t.rows[:0], used: cgroup.CPUTime{PerCPU: t.used.PerCPU[:0]}}
}

// cpuRow is one CPU's row of /proc/stat, in microseconds. The kinds do not overlap.
type cpuRow struct {
	cpu                      int
	user, nice, system, idle uint64
}

// carryLimit is how much time of each visible CPU the first step may leave for
// later ones. The rest was used before the init started, by a group older than
// it: showing it would keep the CPUs busy for as long.
const carryLimit = 1e6

// counted returns what the group had used at the last look.
func (a *account) counted() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// before returns what the group had used before the container's init started.
func (a *account) before() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.base
}

// idle returns the idle time that a step would show in the sum, from the container's
// age in nanoseconds and what the group has used. It returns false if only a step
// can tell: if there was none yet, or other CPUs are visible than at the last one.
func (a *account) idle(age int64, used uint64, visible *cgroup.CPUs) (idle uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stepped || !a.visible.Equal(visible) {
		return 0, false
	}
	now := max(uint64(age)/1000, a.idleAge)
	a.last = max(a.last, used)
	pool := a.carry.total() + sub(a.last, a.taken.total())
	room := uint64(visible.Count()) * (now - a.idleAge)
	a.promised += min(sub(pool, a.promised), room)
	a.idleAge = now
	// Before anybody sees the result.
	a.save()
	for c := range a.rows {
		r := &a.rows[c]
		if visible.Has(c) {
			idle += now - r.total()
		} else {
			idle += r.idle
		}
	}
	return idle - a.promised, true
}

// gatherTimes reads what the group has used, and makes the rows.
func (t *cpuTimes) gatherTimes(c *Container) (err error) {
	if c.buf, err = c.cpu.Time(&t.used, c.account.counted(), c.buf); err != nil {
		return err
	}
	c.account.step(t, &t.used)
	return nil
}

// step adds what was used since the last step to the rows, and copies the rows
// of v.visible, which must not be empty, and the sum of all to v.
func (a *account) step(v *cpuTimes, t *cgroup.CPUTime) {
	a.mu.Lock()
	defer a.mu.Unlock()
	age := max(uint64(v.age)/1000, a.idleAge)
	a.last = max(a.last, t.Total())
	first := !a.stepped
	if first {
		a.begin(age, t, v)
	}
	a.grow(v.visible.Max() + 1)
	for len(a.perCPU) < len(t.PerCPU) {
		a.perCPU = append(a.perCPU, 0)
	}
	pool := a.used(t)
	pool.add(a.carry)
	a.give(&pool, t, &a.visible, a.idleAge-a.age, min(a.promised, pool.total()))
	a.catchUp(&a.visible, a.idleAge)
	a.give(&pool, t, &v.visible, age-a.idleAge, pool.total())
	if first {
		a.giveHidden(&pool, v, age)
	}
	a.catchUp(&v.visible, age)

	a.carry = pool
	a.age, a.idleAge, a.promised = age, age, 0
	a.visible.Copy(&v.visible)
	for c, used := range t.PerCPU {
		a.perCPU[c] = max(a.perCPU[c], used)
	}
	// Before anybody sees the rows.
	a.save()
	a.show(v)
}

// begin fixes what the group had used before the container.
func (a *account) begin(age uint64, t *cgroup.CPUTime, v *cpuTimes) {
	a.stepped = true
	host := uint64(max(v.hostCPUs, v.visible.Count()))
	a.base = sub(t.Total(), host*age+uint64(v.visible.Count())*carryLimit)
	all := share{t.User, t.Nice, t.System}
	a.taken = all.take(a.base)
}

func (a *account) grow(rows int) {
	for len(a.rows) < rows {
		a.rows = append(a.rows, accountRow{})
	}
}

// used returns what the group used since the last step. The parts of t may
// shrink while their sum grows, since the kernel estimates how to divide it; the
// parts that were taken catch up with them without ever going back.
func (a *account) used(t *cgroup.CPUTime) share {
	ahead := share{
		sub(t.User, a.taken.user),
		sub(t.Nice, a.taken.nice),
		sub(t.System, a.taken.system),
	}
	delta := ahead.take(sub(t.Total(), a.taken.total()))
	a.taken.add(delta)
	return delta
}

// give takes up to amount out of pool, and gives it to the rows of cpus for the
// last dt. CPUs that left since the last step may have worked until just now.
func (a *account) give(pool *share, t *cgroup.CPUTime, cpus *cgroup.CPUs, dt, amount uint64) {
	if dt == 0 || amount == 0 {
		return
	}
	for c := range a.rows {
		r := &a.rows[c]
		r.give, r.room = 0, 0
		if cpus.Has(c) || a.visible.Has(c) {
			r.room = dt
		}
	}
	amount = a.giveOwn(t, amount)
	amount = a.giveEvenly(cpus, amount)
	a.giveEvenly(&a.visible, amount)
	for c := range a.rows {
		a.rows[c].add(pool.take(a.rows[c].give))
	}
}

// giveHidden gives the first step's rest to CPUs of the host that are not visible:
// the container may have had them before anybody read.
func (a *account) giveHidden(pool *share, v *cpuTimes, age uint64) {
	for c := 0; c < v.hostCPUs && pool.total() > 0; c++ {
		if !v.visible.Has(c) {
			a.grow(c + 1)
			a.rows[c].add(pool.take(min(age, pool.total())))
		}
	}
}

// catchUp has the rows of cpus be as old as age.
func (a *account) catchUp(cpus *cgroup.CPUs, age uint64) {
	for c := cpus.Next(0); c >= 0; c = cpus.Next(c + 1) {
		a.rows[c].idle = age - a.rows[c].total()
	}
}

// giveOwn gives each row what its own CPU was used, if the group counts by CPU, and
// returns what is left of rest.
func (a *account) giveOwn(t *cgroup.CPUTime, rest uint64) uint64 {
	for c := range min(len(a.rows), len(t.PerCPU)) {
		n := a.rows[c].accept(min(sub(t.PerCPU[c], a.perCPU[c]), rest))
		a.perCPU[c] += n
		rest -= n
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

// restart goes on with a group whose counters begin at 0. What the old one used
// since the last step is still to be shown.
func (a *account) restart() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.carry.add(a.taken.split(sub(a.last, a.taken.total())))
	a.base, a.last = 0, 0
	a.taken = share{}
	a.perCPU = a.perCPU[:0]
	a.save()
}

// clear makes a as new. The caller holds a.mu.
func (a *account) clear() {
	a.stepped = false
	a.base, a.last, a.age, a.idleAge, a.promised = 0, 0, 0, 0, 0
	a.rows = a.rows[:0]
	a.visible.Clear()
	a.carry, a.taken = share{}, share{}
	a.perCPU = a.perCPU[:0]
}
