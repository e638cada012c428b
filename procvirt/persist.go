package procvirt

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"vprocfs/internal/shm"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/loadavg"
)

// What was shown of a container outlives the process that showed it: its account and its
// counters, which would go back otherwise, and its load averages. Each is a record of
// a table, named by the container, and written before anybody sees what is in it.

// Versions of what the records hold. A table of another version begins anew.
const (
	accountVersion = 3
	loadVersion    = 2
)

// tables are where records outlive the process. A nil table keeps nothing.
type tables struct{ accounts, loads, counters *shm.Table }

// accountFormat is that of the table of accounts on the host below root.
func accountFormat(root string) shm.Format {
	cpus := possibleCPUs(root)
	const fixed, row = 16 * 8, 5*8 + 1 // a row, a counter by CPU, and a bit
	return shm.Format{Version: accountVersion, Payload: fixed + row*cpus + 64, Slots: maxSpaces}
}

// possibleCPUs returns how many CPUs the host below root may have.
func possibleCPUs(root string) int {
	if text, err := os.ReadFile(filepath.Join(root, "sys/devices/system/cpu/possible")); err == nil {
		var possible cgroup.CPUs
		if possible.Parse(text) == nil && possible.Max() >= 0 {
			return possible.Max() + 1
		}
	}
	return 1024
}

// loadFormat is that of the table of load averages.
func loadFormat() shm.Format {
	return shm.Format{Version: loadVersion, Payload: loadWords * 8, Slots: maxSpaces}
}

// Persist has accounts and load averages go on where a former process was with them,
// and outlive this one. open returns the table of the given name and format, which a
// former process may have left. Persist must be called before the first Acquire.
// Records of containers that are gone are removed after a while.
func (r *Registry) Persist(open func(name string, f shm.Format) (*shm.Table, error)) (err error) {
	var t tables
	if t.accounts, err = open("accounts", accountFormat(r.cfg.Root)); err != nil {
		return err
	}
	if t.loads, err = open("loads", loadFormat()); err != nil {
		return err
	}
	if t.counters, err = open("vmstat", vmCountersFormat()); err != nil {
		return err
	}
	r.tables = t
	alive := func(o shm.Owner) bool {
		started, err := host.StartTime(r.proc, int(o.PID))
		return err == nil && started == o.Started || isOurs(err)
	}
	go func() {
		t.accounts.Sweep(alive, time.Millisecond)
		t.loads.Sweep(alive, time.Millisecond)
		t.counters.Sweep(alive, time.Millisecond)
	}()
	return nil
}

// persist gives s, whose groups are new to this process, what is kept of it.
func (s *state) persist() {
	t := s.registry.tables
	if t == (tables{}) {
		return
	}
	sp := s.space
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %d %t %d", sp.id, sp.init, sp.started, sp.host, s.id)
	var k shm.Key
	h.Sum(k[:0])
	owner := shm.Owner{PID: int64(sp.init), Started: sp.started}
	s.account.attach(t.accounts.Get(k, owner))
	s.record = t.loads.Get(k, owner)
	s.counters.attach(t.counters.Get(k, owner))
}

// attach makes r the record of a, and a what is in it. It returns the record that
// a had.
func (a *account) attach(r *shm.Record) (old *shm.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, a.record = a.record, r
	if b := r.Load(); b != nil && !a.decode(b) {
		a.clear()
	}
	return old
}

// save stores a. The caller holds a.mu.
func (a *account) save() {
	if a.record != nil {
		a.record.Commit(a.append(a.record.Buffer()))
	}
}

// append appends a as words of the machine: flags, base, last, age, idleAge,
// promised, carry, taken, then the lengths and the words of the visible CPUs, the
// rows and the counters by CPU.
func (a *account) append(b []byte) []byte {
	ne := binary.NativeEndian
	flags := uint64(0)
	if a.stepped {
		flags |= 1
	}
	for _, w := range [...]uint64{
		flags, a.base, a.last, a.age, a.idleAge, a.promised,
		a.carry.user, a.carry.nice, a.carry.system, a.taken.user, a.taken.nice, a.taken.system,
		uint64(a.visible.Max() + 1), uint64(len(a.rows)), uint64(len(a.perCPU)),
	} {
		b = ne.AppendUint64(b, w)
	}
	word := uint64(0)
	for c := range a.visible.Max() + 1 {
		if a.visible.Has(c) {
			word |= 1 << (c % 64)
		}
		if c%64 == 63 || c == a.visible.Max() {
			b = ne.AppendUint64(b, word)
			word = 0
		}
	}
	for i := range a.rows {
		r := &a.rows[i]
		b = ne.AppendUint64(b, r.user)
		b = ne.AppendUint64(b, r.nice)
		b = ne.AppendUint64(b, r.system)
		b = ne.AppendUint64(b, r.idle)
	}
	for _, w := range a.perCPU {
		b = ne.AppendUint64(b, w)
	}
	return b
}

// decode is the reverse of append; false says that b is nothing of the kind. The
// caller holds a.mu.
func (a *account) decode(b []byte) bool {
	ok := true
	next := func() (w uint64) {
		if len(b) < 8 {
			ok = false
			return 0
		}
		w = binary.NativeEndian.Uint64(b)
		b = b[8:]
		return w
	}
	flags := next()
	a.stepped = flags&1 != 0
	a.base, a.last, a.age, a.idleAge, a.promised = next(), next(), next(), next(), next()
	a.carry = share{next(), next(), next()}
	a.taken = share{next(), next(), next()}
	visible, rows, perCPU := next(), next(), next()
	if !ok || visible > cgroup.MaxCPUs || rows > cgroup.MaxCPUs || perCPU > cgroup.MaxCPUs || visible > rows {
		return false
	}
	a.visible.Clear()
	word := uint64(0)
	for c := range int(visible) {
		if c%64 == 0 {
			word = next()
		}
		if word&(1<<(c%64)) != 0 {
			a.visible.Add(c)
		}
	}
	a.rows = a.rows[:0]
	for range rows {
		a.rows = append(a.rows, accountRow{share: share{next(), next(), next()}, idle: next()})
	}
	a.perCPU = a.perCPU[:0]
	for range perCPU {
		a.perCPU = append(a.perCPU, next())
	}
	return ok && len(b) == 0
}

// loadWords is how many words appendLoad makes.
const loadWords = 3 + 2 + 5

func appendLoad(b []byte, s *loadavg.State) []byte {
	for _, w := range [loadWords]uint64{
		s.Averages[0], s.Averages[1], s.Averages[2], uint64(s.At), s.Used,
		uint64(s.Running), uint64(s.Blocked), uint64(s.Total), uint64(s.Newest), uint64(s.LastPID),
	} {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

// decodeLoad is the reverse of appendLoad; false says that b is nothing of the
// kind.
func decodeLoad(b []byte) (s loadavg.State, ok bool) {
	if len(b) != loadWords*8 {
		return s, false
	}
	var w [loadWords]uint64
	for i := range w {
		w[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	s.Averages = loadavg.Averages{w[0], w[1], w[2]}
	s.At, s.Used = int64(w[3]), w[4]
	s.Counts = loadavg.Counts{Running: int(w[5]), Blocked: int(w[6]), Total: int(w[7]), Newest: int(w[8]), LastPID: int(w[9])}
	return s, true
}
