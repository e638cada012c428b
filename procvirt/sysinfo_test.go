// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"vprocfs/procvirt/internal/fixture"
)

// sysinfoOf is what a caller gets.
func sysinfoOf(tb testing.TB, r *Registry, s *Subject) (info Sysinfo) {
	tb.Helper()
	c, err := r.Acquire(pidOf(tb, r, s), &fakeTurn{})
	if err == nil {
		defer c.Release()
		err = c.Sysinfo(&info)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return info
}

// checkSysinfo compares what sysinfo(2) says with what prometheus/procfs reads in the files.
func checkSysinfo(t *testing.T, r *Registry, s *Subject) Sysinfo {
	t.Helper()
	got := sysinfoOf(t, r, s)
	m, _ := oracle(t, render(t, r, "meminfo", s), []byte(hostStat))
	want := got
	value := func(kb *uint64) uint64 {
		if kb == nil {
			return 0 // this host does not have the line
		}
		return *kb << 10
	}
	want.TotalRAM, want.FreeRAM, want.SharedRAM, want.BufferRAM = value(m.MemTotal), value(m.MemFree), value(m.Shmem), value(m.Buffers)
	want.TotalSwap, want.FreeSwap = value(m.SwapTotal), value(m.SwapFree)
	up, _, _ := strings.Cut(string(render(t, r, "uptime", s)), " ")
	seconds, err := strconv.ParseFloat(up, 64)
	if err != nil {
		t.Fatal(err)
	}
	want.Uptime = uint64(math.Ceil(seconds))
	text := strings.Fields(string(render(t, r, "loadavg", s)))
	for i := range want.Loads {
		// As busybox and glibc's getloadavg print them.
		n := got.Loads[i]
		if cut := fmt.Sprintf("%d.%02d", n>>16, n&0xffff*100>>16); cut != text[i] {
			t.Errorf("load %d is %s, %s in the file", i, cut, text[i])
		}
		if rounded := fmt.Sprintf("%.2f", float64(n)/SysinfoLoad); rounded != text[i] {
			t.Errorf("load %d is %s, %s in the file", i, rounded, text[i])
		}
	}
	_, total, _ := strings.Cut(text[3], "/")
	if want.Threads, err = strconv.ParseUint(total, 10, 64); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	return got
}

func TestSysinfoAgreesWithTheFiles(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		for role, pid := range h.Roles {
			if role == "host" {
				continue // has no container
			}
			t.Run(h.Name+"/"+role, func(t *testing.T) {
				r := fixtureRegistry(t, h, nil)
				info := checkSysinfo(t, r, subject(t, h, pid))
				if info.TotalRAM == 0 || info.Threads == 0 || info.Uptime == 0 {
					t.Errorf("%+v", info)
				}
			})
		}
	}
}

// TestSysinfoFollowsThePolicy shows the host's numbers where the files do, and no others.
func TestSysinfoFollowsThePolicy(t *testing.T) {
	h := load(t, "bookworm-v2")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	dir := policyDirs(t, r, s)[0]
	seen := map[Sysinfo]string{}
	for _, policy := range []string{"view=on", "view=off", "loadavg=host", "files=meminfo"} {
		setPolicy(t, dir, policy)
		info := checkSysinfo(t, r, s)
		if other, ok := seen[info]; ok {
			t.Errorf("policies %s and %s show the same", policy, other)
		}
		seen[info] = policy
	}
}

func TestSysinfoOfTexts(t *testing.T) {
	for _, tt := range []struct {
		text string
		want uint64
		ok   bool
	}{
		{"0.00 0.00\n", 0, true}, {"0.01 5.00\n", 1, true}, {"12.00 3.00\n", 12, true}, {"12.99 3.00\n", 13, true},
		{"12 3\n", 0, false}, {"", 0, false}, {"-1.00 0\n", 0, false}, {"1.5 0\n", 0, false}, {"1.234 0\n", 0, false}, {"1.x4 0\n", 0, false},
		{"99999999999999999999.00 0\n", 0, false},
	} {
		var s Sysinfo
		if ok := s.parseUptime([]byte(tt.text)); ok != tt.ok || ok && s.Uptime != tt.want {
			t.Errorf("uptime %q: %d, %v", tt.text, s.Uptime, ok)
		}
	}
	for _, text := range []string{"", "0.00 0.00 0.00", "0.00 0.00 1/2 3", "0.00 0.00 0.00 1 3", "0.00 0.00 0.00 1/x 3", "0.00 0.00 1844674407370955161.00 1/2 3"} {
		var s Sysinfo
		if s.parseLoadavg([]byte(text)) {
			t.Errorf("loadavg %q: %+v", text, s)
		}
	}
	var s Sysinfo
	if s.parseMeminfo([]byte("MemFree: 1 kB\n")) {
		t.Error("meminfo without a total")
	}
}

// TestEveryLoadIsTheFilesAgain has all averages up to 1000.
func TestEveryLoadIsTheFilesAgain(t *testing.T) {
	for h := range uint64(100_000) {
		var s Sysinfo
		text := appendHundredths(nil, h)
		if !s.parseLoadavg(fmt.Appendf(nil, "%s %s %s 1/1 1\n", text, text, text)) {
			t.Fatalf("%s", text)
		}
		if n := s.Loads[0]; n>>16 != h/100 || n&0xffff*100>>16 != h%100 || s.Loads[1] != n || s.Loads[2] != n {
			t.Fatalf("%s: %d", text, n)
		}
	}
}

func FuzzSysinfo(f *testing.F) {
	f.Add([]byte("MemTotal: 1 kB\nSwapTotal: 99999999999999999999 kB\n"))
	f.Add([]byte("12.34 56.78\n"))
	f.Add([]byte("0.01 0.02 0.03 1/2 3\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Sysinfo
		s.parseMeminfo(text)
		if s.TotalRAM%1024 != 0 || s.FreeSwap%1024 != 0 {
			t.Errorf("%+v", s)
		}
		s.parseUptime(text)
		s.parseLoadavg(text)
	})
}
