// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vprocfs/procvirt/held"
)

func TestIOStatOfAnyKernel(t *testing.T) {
	for _, tt := range []struct {
		rule, text string
		want       []DiskIO
	}{
		{"keys may stand in any order, and others among them",
			"8:16 wbytes=2 cost.usage=9 rbytes=1 wios=4 rios=3 dios=6 dbytes=5 rbytes.x=7\n",
			[]DiskIO{{8, 16, 3, 4, 6, 1, 2, 5}}},
		{"by ascending number",
			"259:0 rios=1\n8:16 rios=2\n8:0 rios=3\n",
			[]DiskIO{{8, 0, 3, 0, 0, 0, 0, 0}, {8, 16, 2, 0, 0, 0, 0, 0}, {259, 0, 1, 0, 0, 0, 0, 0}}},
		{"a device with nothing to say has the next one in its line",
			"7:7 7:6 7:4 rbytes=28672 rios=22\n7:3 rios=5\n",
			[]DiskIO{{7, 3, 5, 0, 0, 0, 0, 0}, {7, 4, 22, 0, 0, 28672, 0, 0}, {7, 6, 0, 0, 0, 0, 0, 0}, {7, 7, 0, 0, 0, 0, 0, 0}}},
		{"the text ends in the middle of a line", "8:0 rios=1\n8:1 ",
			[]DiskIO{{8, 0, 1, 0, 0, 0, 0, 0}, {8, 1, 0, 0, 0, 0, 0, 0}}},
		{"the keys of an unknown device are nobody's", "8:0 rios=1\n(unknown) rios=7\n8:0 (unknown) rios=9\n",
			[]DiskIO{{8, 0, 1, 0, 0, 0, 0, 0}}},
		{"no I/O yet", "", nil},
		{"keys without a device", "rios=7\n", nil},
		{"values that are no numbers", "8:0 rios=x wios= dios=-1 rbytes=1k\n", []DiskIO{{8, 0, 0, 0, 0, 0, 0, 0}}},
	} {
		d := parseIOStat(nil, []byte(tt.text))
		if diff := cmp.Diff(tt.want, d[:merge(d)]); diff != "" && len(d)+len(tt.want) > 0 {
			t.Errorf("%s (-want +got):\n%s", tt.rule, diff)
		}
	}
}

const (
	v1Bytes = "8:0 Read 512\n8:0 Write 1024\n8:0 Sync 99\n8:0 Async 99\n8:0 Discard 4096\n8:0 Total 99\n" +
		"(unknown) Read 5\n7:1 Read 7\nTotal 99\n"
	v1Serviced = "7:2 Write 3\n8:0 Read 1\n8:0 Write 2\n8:0 Discard 3\n8:0 Total 99\nTotal 99\n"
)

func v1IO() []DiskIO {
	return []DiskIO{{7, 1, 0, 0, 0, 7, 0, 0}, {7, 2, 0, 3, 0, 0, 0, 0}, {8, 0, 1, 2, 3, 512, 1024, 4096}}
}

func readIO(t *testing.T, p Place) (d []DiskIO) {
	t.Helper()
	var o held.Opener
	f, err := OpenIO(&o, p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		f.Close()
		if o.Count() != 0 {
			t.Errorf("%d files are open", o.Count())
		}
	}()
	for range 2 { // the second time beside what others have put there
		if d, _, err = f.Read([]DiskIO{{Major: 9}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if d[0] != (DiskIO{Major: 9}) {
		t.Errorf("the caller's own entry became %+v", d[0])
	}
	if f.Incomplete {
		t.Error("incomplete")
	}
	return d[1:]
}

func TestV1CountsDescendantsWhereTheKernelDoes(t *testing.T) {
	root := t.TempDir()
	const bytes, serviced = "blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"
	write(t, root+"/old", bytes, v1Bytes, serviced, v1Serviced)
	write(t, root+"/new", bytes, "8:0 Read 0\n", serviced, "8:0 Read 0\n", bytes+"_recursive", v1Bytes, serviced+"_recursive", v1Serviced)
	for _, dir := range []string{"/old", "/new"} {
		got := readIO(t, Place{Dirs: []string{root + dir}})
		if d := cmp.Diff(v1IO(), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", dir, d)
		}
	}
}

func TestIOOfAnAncestorIsNotTheGroups(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a", "io.stat", "8:0 rios=9\n")
	write(t, root+"/a/b/c")
	for _, v2 := range []bool{false, true} {
		var o held.Opener
		p := levels(root)
		p.V2 = v2
		f, err := OpenIO(&o, p)
		if err != nil || !f.Incomplete {
			t.Fatal(err)
		}
		if d, _, err := f.Read(nil, nil); !errors.Is(err, ErrNotEnabled) || len(d) != 0 {
			t.Errorf("v2 %v: %v, %v", v2, d, err)
		}
		f.Close()
	}
	write(t, root+"/a/b/c", "io.stat", "8:0 rios=5\n")
	if d := cmp.Diff([]DiskIO{{8, 0, 5, 0, 0, 0, 0, 0}}, readIO(t, levels(root))); d != "" {
		t.Errorf("enabled now (-want +got):\n%s", d)
	}
}

func TestARemovedGroupHasNoFilesToOpen(t *testing.T) {
	root := t.TempDir()
	// all that an ancestor can have
	write(t, root+"/a", "io.stat", "", "memory.current", "1\n", "memory.stat", "anon 1\n", "cpu.stat", "usage_usec 1\n",
		"blkio.throttle.io_service_bytes", "", "blkio.throttle.io_serviced", "", "memory.usage_in_bytes", "1\n",
		"cpuacct.usage", "1\n", "cpuacct.usage_percpu", "1\n", "cpuacct.usage_all", "cpu user system\n0 1 0\n")
	for _, v2 := range []bool{false, true} {
		var o held.Opener
		p := Place{V2: v2, Dirs: []string{root + "/a/gone", root + "/a"}, Top: root}
		_, io := OpenIO(&o, p)
		_, memory := OpenMemory(&o, p)
		_, cpu := OpenCPU(&o, CPUPlaces{CPUAcct: p})
		for _, err := range []error{io, memory, cpu} {
			if !errors.Is(err, ErrRemoved) || o.Count() != 0 {
				t.Errorf("v2 %v: %v, want %v; %d files open", v2, err, ErrRemoved, o.Count())
			}
		}
	}
}

func TestBlkIOIsIOOnV2(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/sys/fs/cgroup", "cgroup.controllers", "cpu io\n")
	write(t, root+"/proc/self", "mountinfo", "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 c rw\n")
	m, err := Discover(root)
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Locate(BlkIO, Auto, []byte("0::/a\n"), nil)
	if err != nil || !p.V2 || p.Path != "/a" {
		t.Errorf("%+v, %v", p, err)
	}
	if BlkIO.NameV2() != "io" || Memory.NameV2() != "memory" {
		t.Errorf("named %s and %s", BlkIO.NameV2(), Memory.NameV2())
	}
}

func FuzzIO(f *testing.F) {
	f.Add("8:0 rbytes=1 rios=2\n7:7 7:6 dios=18446744073709551616", v1Bytes, v1Serviced)
	f.Add("8:0 rios=18446744073709551615\n8:0 rios=1\n", "4294967296:0 Read 1\n8: Read 1\n:8 Read 1\n8:0 Read 1\n", "")
	f.Fuzz(func(t *testing.T, stat, bytes, serviced string) {
		check := func(d []DiskIO) {
			n := merge(d)
			for i := 1; i < n; i++ {
				if d[i-1].Compare(&d[i]) >= 0 {
					t.Fatalf("%+v before %+v", d[i-1], d[i])
				}
			}
		}
		check(parseIOStat(nil, []byte(stat)))
		check(parseV1IO(parseV1IO(nil, []byte(bytes), true), []byte(serviced), false))
	})
}

func TestIOCountersDoNotWrapAround(t *testing.T) {
	d := []DiskIO{{8, 0, math.MaxUint64, 1, 0, 0, 0, 0}, {8, 0, 5, 1, 0, 0, 0, 0}}
	if n := merge(d); n != 1 || d[0].Reads != math.MaxUint64 || d[0].Writes != 2 {
		t.Errorf("%d left: %+v", n, d[0])
	}
}
