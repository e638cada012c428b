// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/loadavg"
)

func accounts(t testing.TB) *shm.Table {
	t.Helper()
	table, err := shm.New("accounts", shm.Format{Version: 1, Payload: 8192, Slots: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// TestAnAccountGoesOnInTheNextProcess has every step made by another account than
// the one before, which knows only the record, and by one that lives all the time.
func TestAnAccountGoesOnInTheNextProcess(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := &machine{rng: rng, v1: seed%2 == 0, cpus: 1 + rng.IntN(70)}
		m.per = make([]uint64, m.cpus)
		table := accounts(t)
		var steady account
		var v, w cpuTimes
		for step := range 40 {
			m.run(rng.Uint64N(3*second), m.someCPUs())
			v.visible.Clear()
			for _, c := range m.someCPUs() {
				v.visible.Add(c)
			}
			w.visible.Copy(&v.visible)
			v.age, w.age = int64(m.now)*1000, int64(m.now)*1000
			var a account
			a.attach(table.Get(shm.Key{1}, shm.Owner{}))
			if rng.IntN(3) == 0 {
				used := m.used.Total()
				x, xok := a.idle(v.age, used, &v.visible)
				if y, yok := steady.idle(v.age, used, &v.visible); x != y || xok != yok {
					t.Fatalf("seed %d step %d: idle %d, want %d", seed, step, x, y)
				}
			}
			a.step(&v, m.time())
			steady.step(&w, m.time())
			if !reflect.DeepEqual(v.rows, w.rows) || v.total != w.total {
				t.Fatalf("seed %d step %d:\n%+v\nwant\n%+v", seed, step, v.rows, w.rows)
			}
			if rng.IntN(20) == 0 {
				a.restart()
				steady.restart()
				m.used = cgroup.CPUTime{}
				clear(m.per)
			}
		}
	}
}

func TestSteppingAKeptAccountAllocatesNothing(t *testing.T) {
	m := &machine{rng: rand.New(rand.NewPCG(1, 1)), v1: true, cpus: 4, per: make([]uint64, 4)}
	var a account
	a.attach(accounts(t).Get(shm.Key{1}, shm.Owner{}))
	var v cpuTimes
	v.visible.Add(1)
	v.visible.Add(3)
	now := m.time()
	if n := testing.AllocsPerRun(100, func() {
		v.age += 1e9
		a.step(&v, now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTheFormatHasRoomForAllCPUs(t *testing.T) {
	f := accountFormat("/")
	var possible cgroup.CPUs
	h := load(t, "dev-hybrid")
	if err := possible.Parse(h.Read(t, "sys/devices/system/cpu/online")); err != nil {
		t.Fatal(err)
	}
	a := account{rows: make([]accountRow, possible.Max()+1), perCPU: make([]uint64, possible.Max()+1)}
	for c := range possible.Max() + 1 {
		a.visible.Add(c)
	}
	if n := len(a.append(nil)); n > f.Payload {
		t.Errorf("%d bytes, more than %d", n, f.Payload)
	}
	if none := accountFormat(t.TempDir()); none.Payload < 1024*41 {
		t.Errorf("without a list of CPUs: %d bytes", none.Payload)
	}
}

func TestALoadIsKeptWhole(t *testing.T) {
	s := loadavg.State{Averages: loadavg.Averages{1, 2, 3}, At: 4, Used: 5, Counts: loadavg.Counts{Running: 6, Blocked: 7, Total: 8, Newest: 9, LastPID: 10}}
	b := appendLoad(nil, &s)
	if len(b) != loadFormat().Payload {
		t.Errorf("%d bytes, want %d", len(b), loadFormat().Payload)
	}
	if got, ok := decodeLoad(b); !ok || got != s {
		t.Errorf("%+v", got)
	}
	for n := range b {
		if _, ok := decodeLoad(b[:n]); ok {
			t.Errorf("%d bytes are a load", n)
		}
	}
}

// TestContainersGoOnInTheNextProcess is about which records are a container's.
func TestContainersGoOnInTheNextProcess(t *testing.T) {
	h := load(t, "trixie-v2")
	table := accounts(t)
	s := subject(t, h, h.Roles["child"])
	first := fixtureRegistry(t, h, nil)
	first.tables = tables{accounts: table}
	render(t, first, "stat", s)
	if table.Len() != 1 {
		t.Fatalf("%d records", table.Len())
	}
	age := func(v *Registry) (age uint64) {
		for _, sp := range v.spaces {
			for _, c := range sp.containers {
				age = c.account.age
			}
		}
		return age
	}
	next := fixtureRegistry(t, h, nil)
	next.tables = tables{accounts: table}
	render(t, next, "meminfo", s) // which makes the container and steps nothing
	if age(next) == 0 || age(next) != age(first) {
		t.Errorf("the account is of %d, want %d", age(next), age(first))
	}
	next.drop(s.NS)
	if table.Len() != 0 {
		t.Errorf("%d records are kept of a container that is gone", table.Len())
	}
}

func FuzzAccountRecord(f *testing.F) {
	var a account
	a.rows, a.perCPU = make([]accountRow, 3), make([]uint64, 2)
	a.visible.Add(2)
	f.Add(a.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a account
		if a.decode(b) {
			if got := a.append(nil); len(got) > len(b) {
				t.Errorf("%d bytes became %d", len(b), len(got))
			}
		}
	})
}
