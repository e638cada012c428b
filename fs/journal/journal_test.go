// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func layout() Layout { return Layout{Size: 1 << 16, Version: 7} }

func newJournal(t testing.TB) *Journal {
	t.Helper()
	j, err := New(layout(), 42, 40)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// pass gives a journal on as from one process to the next.
func pass(t testing.TB, j *Journal, l Layout) *Journal {
	t.Helper()
	fd, err := j.Leave()
	if err != nil {
		t.Fatal(err)
	}
	next, err := Open(fd, l)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// received is a request that the reader has read.
func received(j *Journal, text string) Request {
	b := j.Slot()
	n := 8 + copy(b[8:], text)
	binary.NativeEndian.PutUint32(b, uint32(n))
	return j.Received(n)
}

func text(r Request) string { return string(r.Bytes()[8:]) }

func texts(requests []Request) string {
	var all []string
	for _, r := range requests {
		all = append(all, text(r))
	}
	return strings.Join(all, " ")
}

func TestRequestsAreLeftForTheNextProcess(t *testing.T) {
	j := newJournal(t)
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		r := received(j, name)
		if r.Replayed() || text(r) != name {
			t.Errorf("%q, replayed: %v", text(r), r.Replayed())
		}
		for range 2 { // the second one changes nothing
			if !r.Note() {
				t.Fatal("no record")
			}
		}
		if i == 2 || i == 4 {
			r.Done()
		}
	}
	done := received(j, "done")
	done.Done()
	received(j, "slot")
	j = pass(t, j, layout())
	left := j.TakeUp(false)
	if got := texts(left.Ready); got != "a b d slot" || len(left.Suspects)+len(left.Refused) > 0 {
		t.Errorf("%q are ready, %d suspects, %d refused", got, len(left.Suspects), len(left.Refused))
	}
	for _, r := range left.Ready {
		if !r.Replayed() {
			t.Errorf("%q is not replayed", text(r))
		}
		r.Done()
	}
	j = pass(t, j, layout())
	if left := j.TakeUp(true); len(left.Ready)+len(left.Suspects)+len(left.Refused) > 0 {
		t.Errorf("left after all are done: %+v", left)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// TestARequestThatWasBeingNotedIsLeftOnce: a process can die between the record and
// freeing the slot.
func TestARequestThatWasBeingNotedIsLeftOnce(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		for _, length := range []int{3, MaxNoted, 4096} {
			j := newJournal(t)
			r := received(j, strings.Repeat("x", length))
			if _, ok := j.note(r.Bytes()); !ok {
				t.Fatal("no record")
			}
			j = pass(t, j, layout())
			if left := j.TakeUp(crashed); len(left.Ready) != 1 || len(left.Suspects) != 0 || j.pendingSlot() != nil {
				t.Errorf("%d bytes: %d ready, %d suspects", length, len(left.Ready), len(left.Suspects))
			}
			j.Close()
		}
	}
}

// TestRequestsOfAnyLengthAreNoted: none must be executed on the reader for want of room.
func TestRequestsOfAnyLengthAreNoted(t *testing.T) {
	j := newJournal(t)
	defer j.Close()
	for _, n := range []int{0, 1, MaxNoted - 8, MaxNoted, SlotSize - 8} {
		r := received(j, strings.Repeat("y", n))
		if !r.Note() {
			t.Errorf("%d bytes are not noted", n)
		}
		if got := len(j.noted(r.record)); got != min(n+8, MaxNoted) {
			t.Errorf("of %d bytes %d are noted", n+8, got)
		}
	}
}

func TestAllRecordsCanBeUsed(t *testing.T) {
	j := newJournal(t)
	defer j.Close()
	var first Request
	for i := range MaxRecords {
		r := received(j, "x")
		if !r.Note() {
			t.Fatalf("there are %d records", i)
		}
		if i == 0 {
			first = r
		}
	}
	r := received(j, "one more")
	if r.Note() {
		t.Error("there is one more record than there are")
	}
	if text(r) != "one more" {
		t.Errorf("a request that is not noted becomes %q", text(r))
	}
	first.Done()
	if !r.Note() {
		t.Error("a record that is free is not used")
	}
}

// TestSuspectsAfterCrashes follows requests over processes that crash.
func TestSuspectsAfterCrashes(t *testing.T) {
	j := newJournal(t)
	for _, name := range []string{"a", "b"} {
		r := received(j, name)
		r.Note()
	}
	received(j, "slot")
	expect := func(step, ready, suspects, refused string) Left {
		t.Helper()
		j = pass(t, j, layout())
		left := j.TakeUp(true)
		if r, s, f := texts(left.Ready), texts(left.Suspects), texts(left.Refused); r != ready || s != suspects || f != refused {
			t.Errorf("%s: ready %q, suspects %q, refused %q", step, r, s, f)
		}
		return left
	}
	// What the reader had in hand was tried by the process that crashed. The slot is
	// free for the next reader.
	expect("first crash", "a b", "slot", "")
	if j.pendingSlot() != nil {
		t.Error("the slot is not free")
	}
	r := received(j, "new")
	r.Note()
	left := expect("second", "new", "a b slot", "")
	left.Suspects[0].Try()
	left.Suspects[0].Done()
	left.Suspects[1].Try()
	left = expect("third", "", "slot new", "b")
	left.Refused[0].Done()
	expect("fourth", "", "slot new", "")
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFormatThatIsNotKnownIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*header){
		"version": func(h *header) { h.version++ },
		"magic":   func(h *header) { h.magic++ },
	} {
		j := newJournal(t)
		spoil(j.header())
		fd, err := j.Leave()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(fd, layout()); !errors.Is(err, ErrFormat) {
			t.Errorf("another %s: %v", name, err)
		}
		unix.Close(fd)
	}
	fd, err := unix.MemfdCreate("short", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := Open(fd, layout()); !errors.Is(err, ErrFormat) {
		t.Errorf("an empty file: %v", err)
	}
}

// TestAnAreaOfAnotherLayoutIsCleared: the requests stay.
func TestAnAreaOfAnotherLayoutIsCleared(t *testing.T) {
	j := newJournal(t)
	r := received(j, "request")
	r.Note()
	for _, l := range []Layout{{Size: 1 << 16, Version: 8}, {Size: 1 << 18, Version: 9}, {Size: 1 << 12, Version: 7}} {
		copy(j.Area(), "area")
		j = pass(t, j, l)
		if len(j.Area()) != l.Size || j.Area()[0] != 0 {
			t.Errorf("%+v: %d bytes, %q", l, len(j.Area()), j.Area()[:4])
		}
		copy(j.Area(), "area")
		if j = pass(t, j, l); string(j.Area()[:4]) != "area" {
			t.Errorf("%+v: the area is lost", l)
		}
		if got := texts(j.TakeUp(false).Ready); got != "request" {
			t.Errorf("%+v: %q are left", l, got)
		}
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzTakeUp takes up a journal with anything in it: no panic, and all requests are
// within their record or the slot.
func FuzzTakeUp(f *testing.F) {
	f.Add([]byte{}, uint32(0), uint32(0), true)
	f.Add([]byte(strings.Repeat("\x01", 500)), uint32(3), uint32(100), false)
	f.Fuzz(func(t *testing.T, b []byte, records, slot uint32, crashed bool) {
		j := Anonymous(layout())
		defer j.Close()
		copy(j.mem[recordsOffset:], b)
		copy(j.Slot(), b)
		*j.slotLength() = slot
		j.header().records = records
		left := j.TakeUp(crashed)
		for _, all := range [][]Request{left.Ready, left.Suspects, left.Refused} {
			for _, r := range all {
				if n := len(r.Bytes()); n == 0 || n > SlotSize {
					t.Errorf("%d bytes", n)
				}
				r.Done()
			}
		}
	})
}
