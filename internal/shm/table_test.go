// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

var format = Format{Version: 1, Payload: 100, Slots: 50}

func newTable(t testing.TB) *Table {
	t.Helper()
	table, err := New("test", format)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// pass maps the table anew, as the next process does.
func pass(t testing.TB, table *Table, f Format) *Table {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(table.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := Open(fd, f)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func key(i int) (k Key) {
	copy(k[:], fmt.Sprint(i))
	return k
}

func store(r *Record, content string) { r.Commit(append(r.Buffer(), content...)) }

func TestRecordsOutliveTheProcess(t *testing.T) {
	table := newTable(t)
	want := make(map[int]string)
	for round := range 20 {
		for range 30 {
			i := rand.IntN(40)
			r := table.Get(key(i), Owner{})
			if r == nil {
				t.Fatal("no record")
			}
			if got := string(r.Load()); got != want[i] {
				t.Fatalf("round %d, record %d: %q, want %q", round, i, got, want[i])
			}
			if rand.IntN(4) == 0 {
				r.Free()
				delete(want, i)
				continue
			}
			want[i] = string(bytes.Repeat([]byte{byte('a' + i%26)}, 1+rand.IntN(100)))
			store(r, want[i])
		}
		table = pass(t, table, format)
		if table.Len() < len(want) || table.Len() > 50 {
			t.Fatalf("round %d: %d records, want %d", round, table.Len(), len(want))
		}
	}
	if err := table.Close(); err != nil {
		t.Error(err)
	}
}

// A process that dies while it fills a record in leaves the one before.
func TestARecordIsNeverInBetween(t *testing.T) {
	table := newTable(t)
	r := table.Get(key(1), Owner{})
	if r.Load() != nil {
		t.Error("a new record holds something")
	}
	for i := range 5 {
		want := fmt.Sprint("content ", i)
		store(r, want)
		_ = append(r.Buffer(), "half a reco"...)
		table = pass(t, table, format)
		r = table.Get(key(1), Owner{})
		if got := string(r.Load()); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAnotherFormatBeginsAnew(t *testing.T) {
	for _, f := range []Format{{2, 100, 50}, {1, 200, 50}, {1, 100, 60}, {1, 10, 5}} {
		table := newTable(t)
		for i := range 50 {
			store(table.Get(key(i), Owner{}), "content")
		}
		table = pass(t, table, f)
		if table.Len() != 0 {
			t.Errorf("%+v: %d records", f, table.Len())
		}
		for i := range 5 {
			if r := table.Get(key(i), Owner{}); r == nil || r.Load() != nil {
				t.Errorf("%+v: record %d: %v", f, i, r)
			}
		}
	}
}

func TestRecordsAreBounded(t *testing.T) {
	table := newTable(t)
	for i := range 50 {
		if table.Get(key(i), Owner{}) == nil {
			t.Fatalf("no record %d", i)
		}
	}
	none := table.Get(key(50), Owner{})
	if none != nil {
		t.Error("one more record than there are")
	}
	store(none, "nobody's")
	none.Free()
	table.Get(key(7), Owner{}).Free()
	r := table.Get(key(50), Owner{})
	store(r, "content")
	store(r, string(make([]byte, 200)))
	if r.Load() != nil {
		t.Error("what does not fit is stored, or what was before is still there")
	}
	var no *Table
	if no.Get(key(1), Owner{}) != nil {
		t.Error("no table has a record")
	}
}

func TestSweepLeavesWhatIsInUseOrAlive(t *testing.T) {
	table := newTable(t)
	for i := range 30 {
		store(table.Get(key(i), Owner{PID: int64(i)}), "content")
	}
	table = pass(t, table, format)
	for i := range 10 {
		table.Get(key(i), Owner{PID: int64(i)})
	}
	table.Sweep(func(o Owner) bool { return o.PID >= 20 }, 0)
	if table.Len() != 20 {
		t.Errorf("%d records are left, want 20", table.Len())
	}
	for i := range 30 {
		if kept := table.Get(key(i), Owner{}).Load() != nil; kept != (i < 10 || i >= 20) {
			t.Errorf("record %d: kept %t", i, kept)
		}
	}
}

func TestStoringAllocatesNothing(t *testing.T) {
	table := newTable(t)
	r := table.Get(key(1), Owner{})
	content := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		r.Commit(append(r.Buffer(), content...))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte{}, uint32(3))
	f.Fuzz(func(t *testing.T, b []byte, used uint32) {
		table := newTable(t)
		table.header().used = used
		copy(table.mem[headerSize:], b)
		table = pass(t, table, format)
		for i := range 60 {
			r := table.Get(key(i), Owner{})
			r.Load()
			store(r, "content")
		}
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
}
