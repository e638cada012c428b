// SPDX-License-Identifier: Apache-2.0

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
	accountVersion = 4
	loadVersion    = 2
)

// tables are where records outlive the process. A nil table keeps nothing.
type tables struct{ accounts, loads, counters *shm.Table }

// accountFormat is that of the table of accounts on the host below root.
func accountFormat(root string) shm.Format {
	cpus := possibleCPUs(root)
	return shm.Format{Version: accountVersion, Payload: 8 * (accountWords + (rowWords+1)*cpus), Slots: maxSpaces}
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
	k := shm.Key(sha256.Sum256(fmt.Appendf(nil, "%d %d %d %t %d", sp.id, sp.init, sp.started, sp.host, s.id)))
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

// appendWords appends words of the machine. nextWord is its reverse.
func appendWords(b []byte, words ...uint64) []byte {
	for _, w := range words {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return b
}

func nextWord(b *[]byte) uint64 {
	w := binary.NativeEndian.Uint64(*b)
	*b = (*b)[8:]
	return w
}

// bit is b as a word.
func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// How many words append has for an account, besides its rows and counters by CPU, and
// for a row.
const (
	accountWords = 14
	rowWords     = 5
)

// append appends a as words, which decode reads.
func (a *account) append(b []byte) []byte {
	b = appendWords(b,
		bit(a.stepped), a.base, a.last, a.age, a.idleAge, a.promised,
		a.carry.user, a.carry.nice, a.carry.system, a.taken.user, a.taken.nice, a.taken.system,
		uint64(len(a.rows)), uint64(len(a.perCPU)))
	for c := range a.rows {
		r := &a.rows[c]
		b = appendWords(b, r.user, r.nice, r.system, r.idle, bit(a.visible.Has(c)))
	}
	return appendWords(b, a.perCPU...)
}

// decode is the reverse of append. It returns false if b is nothing of the kind. The
// caller holds a.mu.
func (a *account) decode(b []byte) bool {
	if len(b) < accountWords*8 {
		return false
	}
	next := func() uint64 { return nextWord(&b) }
	a.stepped = next() == 1
	a.base, a.last, a.age, a.idleAge, a.promised = next(), next(), next(), next(), next()
	a.carry = share{next(), next(), next()}
	a.taken = share{next(), next(), next()}
	rows, perCPU := next(), next()
	if rows > cgroup.MaxCPUs || perCPU > cgroup.MaxCPUs || uint64(len(b)) != 8*(rowWords*rows+perCPU) {
		return false
	}
	a.visible.Clear()
	a.rows, a.perCPU = a.rows[:0], a.perCPU[:0]
	for c := range int(rows) {
		a.rows = append(a.rows, accountRow{share: share{next(), next(), next()}, idle: next()})
		if next() == 1 {
			a.visible.Add(c)
		}
	}
	for range perCPU {
		a.perCPU = append(a.perCPU, next())
	}
	return true
}

// loadWords is how many words appendLoad makes.
const loadWords = 3 + 2 + 5

func appendLoad(b []byte, s *loadavg.State) []byte {
	return appendWords(b,
		s.Averages[0], s.Averages[1], s.Averages[2], uint64(s.At), s.Used,
		uint64(s.Running), uint64(s.Blocked), uint64(s.Total), uint64(s.Newest), uint64(s.LastPID))
}

// decodeLoad is the reverse of appendLoad. It returns false if b is nothing of the
// kind.
func decodeLoad(b []byte) (s loadavg.State, ok bool) {
	if len(b) != loadWords*8 {
		return s, false
	}
	next := func() uint64 { return nextWord(&b) }
	s.Averages = loadavg.Averages{next(), next(), next()}
	s.At, s.Used = int64(next()), next()
	s.Running, s.Blocked, s.Total = int(next()), int(next()), int(next())
	s.Newest, s.LastPID = int(next()), int(next())
	return s, true
}
