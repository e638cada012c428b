// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"math/rand/v2"
	"testing"

	"vprocfs/procvirt/cgroup"
)

// second is the unit of account_test's machines, in microseconds.
const second = uint64(1e6)

// machine is a made-up host whose container burns CPU time.
type machine struct {
	rng  *rand.Rand
	v1   bool
	cpus int
	now  uint64
	used cgroup.CPUTime
	per  []uint64
}

// run lets time pass; the container uses up to the whole of the given CPUs.
func (m *machine) run(dt uint64, on []int) {
	m.now += dt
	for _, c := range on {
		t := m.rng.Uint64N(dt + 1)
		m.per[c] += t
		user := m.rng.Uint64N(t + 1)
		nice := m.rng.Uint64N(user + 1)
		m.used.User += user - nice
		m.used.Nice += nice
		m.used.System += t - user
	}
}

func (m *machine) time() *cgroup.CPUTime {
	t := m.used
	if m.v1 {
		t.PerCPU = append([]uint64(nil), m.per...)
		t.User, t.Nice = t.User+t.Nice, 0
	}
	return &t
}

func (m *machine) someCPUs() []int {
	return m.rng.Perm(m.cpus)[:1+m.rng.IntN(m.cpus)]
}

func rowTotal(r cpuRow) uint64 { return r.user + r.nice + r.system + r.idle }

func busyOf(r cpuRow) uint64 { return r.user + r.nice + r.system }

// TestStatNeverGoesBack changes the visible CPUs at random under a busy
// container, and checks the promises of account after each step.
func TestStatNeverGoesBack(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := &machine{rng: rng, v1: seed%2 == 0, cpus: 1 + rng.IntN(70)}
		m.per = make([]uint64, m.cpus)
		var a account
		last := map[int]cpuRow{}
		var lastTotal cpuRow
		var v, before cpuTimes
		for step := range 60 {
			dt := rng.Uint64N(3 * second)
			if rng.IntN(10) == 0 {
				dt = 0
			}
			m.run(dt, m.someCPUs())
			before.visible.Copy(&v.visible)
			v.visible.Clear()
			for _, c := range m.someCPUs() {
				v.visible.Add(c)
			}
			v.age = int64(m.now) * 1000
			a.step(&v, m.time())

			if len(v.rows) != v.visible.Count() {
				t.Fatalf("seed %d step %d: %d rows for CPUs %v", seed, step, len(v.rows), &v.visible)
			}
			for _, r := range v.rows {
				l := last[r.cpu]
				if r.user < l.user || r.nice < l.nice || r.system < l.system || r.idle < l.idle {
					t.Fatalf("seed %d step %d: cpu%d went back from %+v to %+v", seed, step, r.cpu, l, r)
				}
				if rowTotal(r) != m.now {
					t.Fatalf("seed %d step %d: cpu%d sums to %d at age %d", seed, step, r.cpu, rowTotal(r), m.now)
				}
				if gain := busyOf(r) - busyOf(l); before.visible.Has(r.cpu) && gain > dt {
					t.Fatalf("seed %d step %d: cpu%d gained %d in %d", seed, step, r.cpu, gain, dt)
				}
				last[r.cpu] = r
			}
			tt := v.total
			if tt.user < lastTotal.user || tt.nice < lastTotal.nice || tt.system < lastTotal.system || tt.idle < lastTotal.idle {
				t.Fatalf("seed %d step %d: the sum went back from %+v to %+v", seed, step, lastTotal, tt)
			}
			lastTotal = tt
			if got, want := busyOf(tt)+a.carry.total()+a.base, m.used.Total(); got != want {
				t.Fatalf("seed %d step %d: shown, carried and older time is %d, used was %d", seed, step, got, want)
			}
		}
	}
}

// steady returns what is shown of a container that keeps n of its visible CPUs
// busy, after some steps.
func steady(v1 bool, visible, burning int) *cpuTimes {
	m := &machine{rng: rand.New(rand.NewPCG(1, 1)), v1: v1, cpus: 8, per: make([]uint64, 8)}
	var a account
	v := &cpuTimes{}
	for c := range visible {
		v.visible.Add(c)
	}
	for range 50 {
		m.now += second / 10
		for c := range burning {
			m.per[c] += second / 10
			m.used.User += second / 10
		}
		v.age = int64(m.now) * 1000
		a.step(v, m.time())
	}
	return v
}

func TestBusyTimeStaysOnItsCPUWhereV1Tells(t *testing.T) {
	v := steady(true, 4, 2)
	for _, r := range v.rows {
		want := uint64(0)
		if r.cpu < 2 {
			want = 5 * second
		}
		if busyOf(r) != want {
			t.Errorf("cpu%d: busy %d us, want %d", r.cpu, busyOf(r), want)
		}
	}
}

func TestBusyTimeOutsideTheVisibleCPUsIsFoldedIn(t *testing.T) {
	// 3 CPUs burn, 4 are visible from 2 on: the quota cut the others off
	m := &machine{v1: true, cpus: 8, per: make([]uint64, 8)}
	var a account
	v := &cpuTimes{}
	for c := range 4 {
		v.visible.Add(c)
	}
	for range 10 {
		m.now += second
		for _, c := range []int{5, 6, 7} {
			m.per[c] += second
			m.used.User += second
		}
		v.age = int64(m.now) * 1000
		a.step(v, m.time())
	}
	if got := busyOf(v.total); got != 30*second {
		t.Errorf("busy %d us, want %d", got, 30*second)
	}
	for _, r := range v.rows {
		if got := busyOf(r); got < 7*second || got > 8*second {
			t.Errorf("cpu%d: busy %d us, want about 7.5 s", r.cpu, got)
		}
	}
}

func TestV2TimeIsSpreadEvenly(t *testing.T) {
	v := steady(false, 4, 2)
	for _, r := range v.rows {
		if got := busyOf(r); got != 5*second*2/4 {
			t.Errorf("cpu%d: busy %d us, want %d", r.cpu, got, 5*second/2)
		}
	}
}

func TestTimeFromBeforeTheInitIsNotShown(t *testing.T) {
	// a group that burned an hour before this container's init started in it
	var a account
	v := &cpuTimes{cpuView: cpuView{age: int64(2*second) * 1000}}
	v.visible.Add(0)
	used := &cgroup.CPUTime{User: 3600 * second}
	a.step(v, used)
	if got := busyOf(v.total); got > 2*second {
		t.Errorf("a container of 2 s shows %d us busy", got)
	}
	v.age += int64(10*second) * 1000
	a.step(v, used)
	if got := busyOf(v.total); got > 2*second+carryLimit {
		t.Errorf("an idle container shows %d us busy after 10 s", got)
	}
	if idle, ok := a.idle(v.age, used.Total(), &v.visible); !ok || idle != v.total.idle {
		t.Errorf("uptime's idle is %d us, stat's %d", idle, v.total.idle)
	}
}

func TestBurstIsCarriedOver(t *testing.T) {
	var a account
	v := &cpuTimes{cpuView: cpuView{age: int64(10*second) * 1000}}
	v.visible.Add(3)
	a.step(v, &cgroup.CPUTime{User: second})
	// 2.5 s of CPU in 1 s, as a burst on CPUs that a quota hides
	used := &cgroup.CPUTime{User: second + second*5/2}
	for _, want := range []uint64{2 * second, 3 * second, second * 7 / 2, second * 7 / 2} {
		v.age += int64(second) * 1000
		a.step(v, used)
		if got := busyOf(v.total); got != want {
			t.Errorf("at %d s: busy %d us, want %d", v.age/1e9, got, want)
		}
	}
}

func TestOlderNumbersAddNothing(t *testing.T) {
	var a account
	v := &cpuTimes{cpuView: cpuView{age: int64(10*second) * 1000}}
	v.visible.Add(0)
	a.step(v, &cgroup.CPUTime{User: 5 * second})
	v.age = int64(9*second) * 1000
	a.step(v, &cgroup.CPUTime{User: 4 * second})
	if got := v.rows[0]; busyOf(got) != 5*second || rowTotal(got) != 10*second {
		t.Errorf("a late reader moved the row to %+v", got)
	}
}

func TestKindsFollowTheGroupWithoutGoingBack(t *testing.T) {
	// the kernel estimates how to divide user and system, and may move time over
	var a account
	v := &cpuTimes{}
	v.visible.Add(0)
	var last cpuRow
	for i := range uint64(100) {
		v.age = int64((i+1)*second) * 1000
		user := (i + 1) * second / 2
		if i%2 == 1 {
			user -= second / 4
		}
		a.step(v, &cgroup.CPUTime{User: user, System: (i+1)*second/2 - user + (i+1)*second/4})
		if r := v.rows[0]; r.user < last.user || r.system < last.system {
			t.Fatalf("step %d: from %+v to %+v", i, last, r)
		}
		last = v.rows[0]
	}
	if got, want := busyOf(last), 100*second*3/4; got != want {
		t.Errorf("busy %d us, want %d", got, want)
	}
}

func FuzzTakeSplitsExactly(f *testing.F) {
	f.Add(uint64(1), uint64(1), uint64(1), uint64(2))
	f.Add(uint64(1<<61), uint64(0), uint64(3), uint64(1<<61))
	f.Fuzz(func(t *testing.T, user, nice, system, amount uint64) {
		const most = 1 << 61
		s := share{user % most, nice % most, system % most}
		before := s
		amount %= s.total() + 1
		got := s.take(amount)
		if got.total() != amount {
			t.Fatalf("took %d of %+v, want %d", got.total(), before, amount)
		}
		s.add(got)
		if s != before {
			t.Fatalf("%+v became %+v", before, s)
		}
	})
}

func TestAGroupMadeAnewGoesOnWhereTheOldOneEnded(t *testing.T) {
	var a account
	v := &cpuTimes{cpuView: cpuView{age: int64(10*second) * 1000}}
	v.visible.Add(0)
	a.step(v, &cgroup.CPUTime{User: 4 * second})
	a.restart()
	v.age += int64(10*second) * 1000
	a.step(v, &cgroup.CPUTime{User: 3 * second})
	if got := busyOf(v.total); got != 7*second {
		t.Errorf("busy %d us, want 7 s", got)
	}
	if got, ok := a.idle(v.age, 3*second, &v.visible); got != 13*second || !ok {
		t.Errorf("uptime's idle is %d us, want 13 s", got)
	}
}

func TestCPUsThatLeaveTakeWhatWasUsedUntilThen(t *testing.T) {
	var a account
	v := &cpuTimes{cpuView: cpuView{age: int64(10*second) * 1000}}
	for c := range 4 {
		v.visible.Add(c)
	}
	a.step(v, &cgroup.CPUTime{User: second})
	// four CPUs worked for 10 s, and then three of them left
	v.age += int64(10*second) * 1000
	v.visible.Truncate(1)
	a.step(v, &cgroup.CPUTime{User: 41 * second})
	if got := busyOf(v.total); got != 41*second || a.carry.total() != 0 {
		t.Errorf("busy %d us and %d carried, want 41 s and none", got, a.carry.total())
	}
}
