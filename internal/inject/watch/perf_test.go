// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// record makes a record of a ring.
func record(typ uint32, body ...uint32) []byte {
	b := make([]byte, recordHeader+4*len(body))
	binary.NativeEndian.PutUint32(b, typ)
	binary.NativeEndian.PutUint16(b[recordSize:], uint16(len(b)))
	for i, v := range body {
		binary.NativeEndian.PutUint32(b[recordHeader+4*i:], v)
	}
	return b
}

// fakeRing is a ring over memory of the test, of size bytes, into which the kernel
// has written the records from position tail on.
func fakeRing(e *perfEvent, size int, tail uint64, records ...[]byte) *ring {
	r := &ring{event: e, meta: &unix.PerfEventMmapPage{Data_head: tail, Data_tail: tail}, data: make([]byte, size)}
	for _, b := range records {
		for _, c := range b {
			r.data[r.meta.Data_head%uint64(size)] = c
			r.meta.Data_head++
		}
	}
	return r
}

func TestRingsAreReadAroundTheirEnd(t *testing.T) {
	tid := &perfEvent{follow: true}
	raw := &perfEvent{pid: 8}
	sample := func(pid uint32) []byte { return record(unix.PERF_RECORD_SAMPLE, pid, pid+1) }
	withRaw := func(pid uint32) []byte { return record(unix.PERF_RECORD_SAMPLE, 1, 2, 12, 0, 0, pid) }
	for _, tt := range []struct {
		name    string
		event   *perfEvent
		records [][]byte
		want    []int
		lost    bool
	}{
		{"samples", tid, [][]byte{sample(5), sample(6), sample(7)}, []int{5, 6, 7}, false},
		{"raw data", raw, [][]byte{withRaw(8), withRaw(9)}, []int{8, 9}, false},
		{"lost", tid, [][]byte{sample(5), record(unix.PERF_RECORD_LOST, 0, 0, 3, 0), sample(6)}, []int{5, 6}, true},
		{"other records", tid, [][]byte{record(5, 9, 9), sample(6)}, []int{6}, false},
		{"raw data too short", raw, [][]byte{sample(5)}, nil, false},
		{"length 0", tid, [][]byte{make([]byte, 8), sample(5)}, nil, true},
		{"a pid below 1", tid, [][]byte{sample(0), sample(1 << 31)}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for tail := uint64(0); tail < 256; tail += 8 {
				r := fakeRing(tt.event, 128, tail, tt.records...)
				var got []int
				lost := r.read(func(e event) {
					if e.follow != tt.event.follow {
						t.Error("the sample does not say whether to follow")
					}
					got = append(got, e.pid)
				})
				if lost != tt.lost || !slices.Equal(got, tt.want) {
					t.Fatalf("from %d on: %v, lost %v; want %v, %v", tail, got, lost, tt.want, tt.lost)
				}
				if r.meta.Data_tail != r.meta.Data_head {
					t.Fatal("the kernel is not told that the records are read")
				}
			}
		})
	}
}

func FuzzRing(f *testing.F) {
	f.Add(record(unix.PERF_RECORD_SAMPLE, 5, 6), uint64(0), uint64(16), 0)
	f.Add(record(unix.PERF_RECORD_SAMPLE, 1, 2, 12, 0, 0, 7), uint64(8), uint64(40), 8)
	f.Fuzz(func(t *testing.T, data []byte, tail, n uint64, offset int) {
		if len(data) < 8 || n > uint64(len(data)) || tail > 1<<62 || offset < 0 || offset > 1<<12 {
			return
		}
		r := &ring{event: &perfEvent{pid: offset}, data: data}
		r.records(tail+n, tail, func(e event) {
			if e.pid <= 0 {
				t.Errorf("pid %d", e.pid)
			}
		})
	})
}

func TestListsOfCPUsAreParsed(t *testing.T) {
	got, err := parseCPUs("0-2,5,7-8\n")
	if err != nil || !slices.Equal(got, []int{0, 1, 2, 5, 7, 8}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "\n", "a", "1-", "-1"} {
		if got, err := parseCPUs(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}
