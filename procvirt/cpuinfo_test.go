// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// shownCPUInfo is what a container that sees the CPUs in the list is shown of the
// host's text.
func shownCPUInfo(tb testing.TB, host []byte, list string) []byte {
	tb.Helper()
	v := &cpuinfo{host: parseCPUInfo(host)}
	if err := v.visible.Parse([]byte(list)); err != nil {
		tb.Fatal(err)
	}
	v.countPackages()
	return v.append(nil)
}

// cpuinfoHosts returns the host's texts of all architectures, by name.
func cpuinfoHosts(tb testing.TB) map[string]*txtar.Archive {
	tb.Helper()
	files, err := filepath.Glob("testdata/cpuinfo/*.txtar")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no files (%v)", err)
	}
	all := map[string]*txtar.Archive{}
	for _, f := range files {
		ar, err := txtar.ParseFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		all[f] = ar
	}
	return all
}

// TestCPUInfoOfEveryArchitecture compares with texts that were looked at by
// people: each is named for the CPUs that are visible.
func TestCPUInfoOfEveryArchitecture(t *testing.T) {
	for file, ar := range cpuinfoHosts(t) {
		host := ar.Files[0].Data
		for i := range ar.Files[1:] {
			f := &ar.Files[1+i]
			got := shownCPUInfo(t, host, f.Name)
			if *update {
				f.Data = got
			}
			if d := cmp.Diff(string(f.Data), string(got)); d != "" {
				t.Errorf("%s of %s (-want +got):\n%s", f.Name, file, d)
			}
		}
		if *update {
			if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCPUInfoOfAllCPUsIsTheHosts(t *testing.T) {
	for file, ar := range cpuinfoHosts(t) {
		host := ar.Files[0].Data
		if d := cmp.Diff(string(host), string(shownCPUInfo(t, host, "0-63"))); d != "" {
			t.Errorf("%s (-want +got):\n%s", file, d)
		}
	}
}

func TestCountsOfCPUsAreThoseOfTheVisibleOnes(t *testing.T) {
	host := cpuinfoHosts(t)["testdata/cpuinfo/x86-sockets.txtar"].Files[0].Data
	for list, want := range map[string]string{ // processor: siblings/cpu cores
		"0":     "0:1/1",
		"0,4":   "0:2/1 4:2/1",       // two threads of a core
		"0-1":   "0:2/2 1:2/2",       // two cores of a package
		"0,2":   "0:1/1 2:1/1",       // two packages
		"0,2,5": "0:2/2 2:1/1 5:2/2", // CPU 5 is a thread of CPU 1's core
		"4-6":   "4:2/2 5:2/2 6:1/1", //
		"0-5":   "0:4/2 1:4/2 2:2/2 3:2/2 4:4/2 5:4/2",
	} {
		var got []string
		for _, c := range cpuinfoOracle(t, shownCPUInfo(t, host, list)) {
			got = append(got, fmt.Sprintf("%d:%d/%d", c.Processor, c.Siblings, c.CPUCores))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("visible %s: %s, want %s", list, s, want)
		}
	}
}

func TestCPUInfoAgreesWithStat(t *testing.T) {
	for _, name := range []string{"trixie-v2", "dev-hybrid", "bullseye-v1"} {
		h := load(t, name)
		v := fixtureRegistry(t, h, nil)
		for role, pid := range h.Roles {
			s := subject(t, h, pid)
			_, st := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
			cpus := cpuinfoOracle(t, render(t, v, "cpuinfo", s))
			if len(cpus) != len(st.CPU) {
				t.Errorf("%s, %s: %d CPUs, stat has %d", name, role, len(cpus), len(st.CPU))
			}
			for _, c := range cpus {
				if _, ok := st.CPU[int64(c.Processor)]; !ok {
					t.Errorf("%s, %s: stat has no CPU %d", name, role, c.Processor)
				}
			}
		}
	}
}

// FuzzCPUInfo gives the host any text: only whole lines go, and what is shown
// once is shown again when it is the host's.
func FuzzCPUInfo(f *testing.F) {
	for _, ar := range cpuinfoHosts(f) {
		f.Add(ar.Files[0].Data, []byte{0b1010})
	}
	f.Add([]byte("siblings: 4\n\n# processors\t: 3\nprocessor 1:\n\nprocessor: 1\nphysical id:\nsiblings:9\n"), []byte{2})
	f.Add([]byte("processor: 99999999999999999999\nphysical id: 1\nprocessor: 0"), []byte{255, 1})
	f.Fuzz(func(t *testing.T, host, visible []byte) {
		if bytes.ContainsRune(host, 0) {
			return
		}
		v := &cpuinfo{host: parseCPUInfo(host)}
		for i := range min(len(visible)*8, 8192) {
			if visible[i/8]&(1<<(i%8)) != 0 {
				v.visible.Add(i)
			}
		}
		v.countPackages()
		out := v.append(nil)
		v.host = parseCPUInfo(out)
		for _, l := range v.host.lines {
			if l.cpu >= 0 && !v.visible.Has(l.cpu) {
				t.Fatalf("a line of CPU %d: %q", l.cpu, l.text)
			}
			if label, _ := splitCPUInfo(l.text); !bytes.Contains(host, label) {
				t.Fatalf("not a line of the host's: %q", l.text)
			}
		}
		v.countPackages()
		if again := v.append(nil); !bytes.Equal(out, again) {
			t.Fatalf("shown again: %q became %q", out, again)
		}
	})
}

// cpuinfoOf is the text of an x86 host with n CPUs in packages of 64.
func cpuinfoOf(n int) []byte {
	var b bytes.Buffer
	for c := range n {
		fmt.Fprintf(&b, "processor\t: %d\nphysical id\t: %d\nsiblings\t: 64\ncore id\t\t: %d\ncpu cores\t: 32\n%sflags\t\t: %s\n\n",
			c, c/64, c%32, strings.Repeat("apicid\t\t: 1\ncpu MHz\t\t: 2445.428\n", 10), strings.Repeat(" flag", 200))
	}
	return b.Bytes()
}

func TestCPUInfoOfManyCPUsIsWholeAndCostsNoAllocation(t *testing.T) {
	v := &cpuinfo{host: parseCPUInfo(cpuinfoOf(512))}
	for c := 0; c < 512; c += 2 {
		v.visible.Add(c)
	}
	v.countPackages()
	dst := v.append(nil)
	if n := bytes.Count(dst, []byte("processor\t")); n != 256 {
		t.Errorf("%d CPUs, want 256", n)
	}
	if n := bytes.Count(dst, []byte("siblings\t: "+strconv.Itoa(32)+"\n")); n != 256 {
		t.Errorf("%d CPUs of a package with 32, want 256", n)
	}
	if n := testing.AllocsPerRun(20, func() {
		v.countPackages()
		dst = v.append(dst[:0])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestTheHostsCPUInfoIsReadOnceASecond has two containers read it.
func TestTheHostsCPUInfoIsReadOnceASecond(t *testing.T) {
	h := load(t, "dev-hybrid")
	now := int64(1e15)
	r := fixtureRegistry(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	first := subject(t, h, h.Roles["child"])
	second := *first
	second.NS++
	path := filepath.Join(r.cfg.Root, "proc/cpuinfo")
	old := h.Read(t, "proc/cpuinfo")
	faster := bytes.ReplaceAll(old, []byte("cpu MHz\t\t: "), []byte("cpu MHz\t\t: 1"))
	if bytes.Equal(old, faster) {
		t.Fatal("no frequency in the capture: nothing is tested")
	}
	before := render(t, r, "cpuinfo", first)
	if err := os.WriteFile(path, faster, 0o644); err != nil {
		t.Fatal(err)
	}
	now += cpuinfoAge - 1
	if got := render(t, r, "cpuinfo", &second); !bytes.Equal(got, before) {
		t.Errorf("the host's file was read again within a second:\n%s", got)
	}
	now++
	if got := render(t, r, "cpuinfo", first); bytes.Equal(got, before) {
		t.Error("the text of a second ago")
	}
}
