// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"math"
	"strings"
	"testing"

	"vprocfs/internal/procpid"
)

func FuzzCPUs(f *testing.F) {
	for _, s := range []string{"", "\n", "0\n", "0-3,8\n", "0-8191", "3-1", "1,,2", "99999999999999999999", "0-", "a", "0-3:1/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s, again CPUs
		if err := s.Parse([]byte(text)); err != nil {
			if s.Count() != 0 {
				t.Fatalf("%q: error, and %d CPUs", text, s.Count())
			}
			return
		}
		list := s.AppendList(nil)
		if err := again.Parse(list); err != nil || again.String() != string(list) || again.Count() != s.Count() {
			t.Fatalf("%q became %q, that %v (%v)", text, list, &again, err)
		}
		n, last := 0, -1
		for c := s.Next(0); c >= 0; c = s.Next(c + 1) {
			if c <= last || !s.Has(c) {
				t.Fatalf("%q: %d after %d", text, c, last)
			}
			n, last = n+1, c
		}
		if n != s.Count() || last != s.Max() {
			t.Fatalf("%q: walked %d to %d, of %d to %d", text, n, last, s.Count(), s.Max())
		}
		s.Truncate(3)
		if s.Count() != min(n, 3) || n > 0 && s.Next(0) != again.Next(0) {
			t.Fatalf("%q: cut to %v", text, &s)
		}
	})
}

func FuzzMembership(f *testing.F) {
	f.Add("12:cpu,cpuacct:/a b:c\n1:name=systemd:/\n0::/user.slice/x (deleted)\n", "cpuacct")
	f.Add("0::/../..\n", "")
	f.Add(":::\n::\n0:\n/\n", "memory")
	f.Fuzz(func(t *testing.T, text, controller string) {
		path := procpid.Cgroup([]byte(text), controller)
		if path == nil {
			return
		}
		h := &hierarchy{dir: "/cg", top: "/", real: true, v2: true}
		p, err := h.place(string(path))
		if err != nil {
			return
		}
		for _, d := range p.Dirs {
			if d != "/cg" && !strings.HasPrefix(d, "/cg/") || strings.Contains(d+"/", "/../") {
				t.Fatalf("%q leads to %q", path, d)
			}
		}
	})
}

func FuzzMemoryStat(f *testing.F) {
	f.Add("anon 4096\nfile 18446744073709551616\nanon_thp x\n\nshmem\n")
	f.Add("cache 1\ntotal_cache 2\nhierarchical_memory_limit 9223372036854771712\n")
	f.Fuzz(func(t *testing.T, text string) {
		var v2, v1 MemoryStat
		v2.parse([]byte(text))
		limit := v1.parseV1([]byte(text)).memory
		if limit >= v1NoLimit && limit != NoLimit {
			t.Fatalf("%q: limit %d", text, limit)
		}
	})
}

func FuzzCPUTime(f *testing.F) {
	f.Add("usage_usec 3\nuser_usec 1\nsystem_usec 2\nnice_usec 9\n", "cpu user system\n0 1 2\n5 3 4\n", "7 8 \n")
	f.Add("user_usec 18446744073709551615\nsystem_usec 18446744073709551615", "cpu\n0 18446744073709551615 18446744073709551615\n1 9 9", "99999999999999999999 1")
	f.Fuzz(func(t *testing.T, stat, all, percpu string) {
		var c CPUTime
		c.raise(c.parse([]byte(stat)))
		if c.Total() < c.User || c.Total() > 2*maxTime {
			t.Fatalf("%q: %+v wraps around", stat, c)
		}
		c = CPUTime{}
		user, system, err := c.parseAll([]byte(all))
		if err != nil {
			return
		}
		c.parsePerCPU([]byte(percpu), user, system)
		var sum uint64
		for _, us := range c.PerCPU {
			sum += us
		}
		if c.Total() < sum || c.Nice != 0 {
			t.Fatalf("%q %q: %+v is less than %d", all, percpu, c, sum)
		}
	})
}

func FuzzWholeCPUs(f *testing.F) {
	f.Add(uint64(150000), uint64(100000))
	f.Add(uint64(1000), uint64(1000000))
	f.Add(uint64(math.MaxUint64), uint64(1))
	f.Fuzz(func(t *testing.T, quota, period uint64) {
		n := wholeCPUs(quota, period)
		if period == 0 {
			if n != 0 {
				t.Fatalf("%d without a period", n)
			}
			return
		}
		if n < 1 || n > MaxCPUs {
			t.Fatalf("%d/%d is %d CPUs", quota, period, n)
		}
	})
}
