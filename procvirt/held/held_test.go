// SPDX-License-Identifier: Apache-2.0

package held

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// slabs is a file of many records, some pages long, whose numbers move all the
// time while its lines and their fields stay.
const slabs = "/proc/slabinfo"

func openTest(t *testing.T, path string) (*Opener, *File) {
	t.Helper()
	var o Opener
	f, err := o.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return &o, f
}

// check fails where text is not whole lines of slabinfo, about want of them:
// caches may come and go, but a page holds more than a few.
func check(text []byte, want int) error {
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i, line := range lines {
		if f := strings.Fields(line); i >= 2 && len(f) != 16 {
			return fmt.Errorf("line %d of %d is torn: %q", i, len(lines), line)
		}
	}
	if len(lines) < want-5 || len(lines) > want+5 {
		return fmt.Errorf("%d lines, want %d", len(lines), want)
	}
	return nil
}

// slabLines is how many lines slabinfo has.
func slabLines(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(slabs)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) < 2*os.Getpagesize() {
		t.Fatalf("%d bytes of %s are one piece: nothing is tested", len(text), slabs)
	}
	return bytes.Count(text, []byte("\n"))
}

func TestRecordsAreReadToTheEnd(t *testing.T) {
	want := slabLines(t)
	_, f := openTest(t, slabs)
	var buf []byte
	var err error
	for _, size := range []int{0, 1, 4096, 1 << 20} {
		buf = make([]byte, 0, size) // at first too small
		for range 2 {
			if buf, err = f.ReadRecords(buf); err == nil {
				err = check(buf, want)
			}
			if err != nil {
				t.Fatalf("buffer of %d: %v", size, err)
			}
		}
	}
	if n := testing.AllocsPerRun(10, func() {
		if buf, err = f.ReadRecords(buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNobodyWaitsForAnotherReader guards readers of one descriptor against each
// other: it is in use here as long as the test likes.
func TestNobodyWaitsForAnotherReader(t *testing.T) {
	o, f := openTest(t, slabs)
	f.records.Lock()
	defer f.records.Unlock()
	before := descriptors(t)
	text, err := f.ReadRecords(nil)
	if err == nil {
		err = check(text, slabLines(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	if after := descriptors(t); after != before || o.Count() != 1 {
		t.Errorf("%d descriptors, %d before; %d counted", after, before, o.Count())
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestReadersAtTheSameTimeSeeWholeRecords(t *testing.T) {
	_, f := openTest(t, slabs)
	want := slabLines(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var buf []byte
			for range 50 {
				var err error
				if buf, err = f.ReadRecords(buf); err == nil {
					err = check(buf, want)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestASharedFileIsOpenUntilTheLastHasClosedIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cpu.max")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	before := descriptors(t)
	var o Opener
	open := func() *File {
		t.Helper()
		f, err := o.OpenShared(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	text := func(f *File) string {
		t.Helper()
		b, err := f.Read(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	a, b := open(), open()
	if o.Count() != 1 || descriptors(t) != before+1 {
		t.Errorf("%d open, %d descriptors more", o.Count(), descriptors(t)-before)
	}
	a.Close()
	if got := text(b); got != "first" {
		t.Errorf("%q", got)
	}
	// The group is made anew while one has the old one's file open.
	if err := os.Rename(path, filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	write("second")
	c := open()
	d := open()
	if text(b) != "first" || text(c) != "second" || c != d {
		t.Errorf("old %q, new %q", text(b), text(c))
	}
	b.Close()
	if e := open(); e != c {
		t.Error("closing the old one has forgotten the new one")
	} else {
		e.Close()
	}
	c.Close()
	d.Close()
	if o.Count() != 0 || descriptors(t) != before || len(o.shared) != 0 {
		t.Errorf("%d open, %d descriptors more, %d shared", o.Count(), descriptors(t)-before, len(o.shared))
	}
	if _, err := o.OpenShared(filepath.Join(dir, "none")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such file: %v", err)
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	dir := t.TempDir()
	_, f := openTest(t, dir)
	for name, read := range map[string]func([]byte) ([]byte, error){"Read": f.Read, "ReadRecords": f.ReadRecords} {
		_, err := read(nil)
		if e, ok := err.(*ReadError); !ok || e.Errno != unix.EISDIR || e.Path != dir {
			t.Errorf("%s of a directory: %v", name, err)
		}
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxSize+1); err != nil {
		t.Fatal(err)
	}
	_, f = openTest(t, large)
	for name, read := range map[string]func([]byte) ([]byte, error){"Read": f.Read, "ReadRecords": f.ReadRecords} {
		if _, err := read(nil); err == nil || !strings.Contains(err.Error(), large+": more than") {
			t.Errorf("%s of %d bytes: %v", name, maxSize+1, err)
		}
	}
}
