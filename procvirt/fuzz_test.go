// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"regexp"
	"testing"

	"vprocfs/procvirt/cgroup"
)

const hostStat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5 1 2\nctxt 7\nbtime 9\nprocesses 3\nprocs_running 1\nprocs_blocked 0\nsoftirq 6 1 2 3 0 0 0 0 0 0 0\n"

// meminfoLine is how a line of the kernel looks.
var meminfoLine = regexp.MustCompile(`^[A-Za-z0-9_()]+: +[0-9]+( kB)?$`)

// meminfoOf is the numbers of a group that uses nothing.
func meminfoOf(host []byte) *meminfo {
	n := &meminfo{text: host, nodes: cgroup.NoLimit}
	n.host.parse(host)
	return n
}

// FuzzMeminfo gives a group any numbers: what is shown must be well formed, be
// read by prometheus/procfs, and never have wrapped around.
func FuzzMeminfo(f *testing.F) {
	hosts := [][]byte{}
	for _, name := range []string{"trixie-v2", "dev-hybrid", "bullseye-v1"} {
		hosts = append(hosts, load(f, name).Read(f, "proc/meminfo"))
	}
	f.Add(uint8(0), uint64(1<<28), uint64(1<<27), uint64(1<<28), uint64(1<<20), uint64(4096), uint64(1<<21))
	f.Add(uint8(1), uint64(4096), ^uint64(0), uint64(0), ^uint64(0), ^uint64(0), uint64(0))
	f.Add(uint8(2), ^uint64(0), uint64(0), ^uint64(0), uint64(1), ^uint64(0)-1, ^uint64(0))
	f.Fuzz(func(t *testing.T, which uint8, limit, usage, swapLimit, swapUsage, any, huge uint64) {
		host := hosts[int(which)%len(hosts)]
		v := meminfoOf(host)
		v.huge = []cgroup.HugeUsage{{PageSize: 2 << 20, Limit: huge, Free: any, HostTotal: 32 << 20}}
		v.memory.MemoryUsage = cgroup.MemoryUsage{Limit: limit, Free: usage, Available: any, SwapAccounted: any%2 == 0, SwapFree: any, SwapLimit: swapLimit, SwapUsage: swapUsage}
		s := &v.memory.Stat
		*s = cgroup.MemoryStat{Anon: any, File: any / 2, ActiveAnon: any, ActiveFile: any, InactiveFile: any, SlabReclaimable: any, SlabUnreclaimable: any}
		out := v.append(nil)
		if bytes.Count(out, []byte("\n")) != bytes.Count(host, []byte("\n")) {
			t.Fatalf("lines are lost:\n%s", out)
		}
		for line := range bytes.Lines(out) {
			if !meminfoLine.Match(bytes.TrimSuffix(line, []byte("\n"))) {
				t.Fatalf("not a line of meminfo: %q", line)
			}
		}
		m, _ := oracle(t, out, []byte(hostStat))
		if *m.MemFree > *m.MemTotal || *m.MemAvailable > *m.MemTotal || *m.SwapFree > *m.SwapTotal || *m.MemTotal > limit>>10 {
			t.Fatalf("wrapped around:\n%s", out)
		}
	})
}

// FuzzMeminfoHost gives the host any text: lines stay lines, in their order.
func FuzzMeminfoHost(f *testing.F) {
	f.Add([]byte("MemTotal:       24684096 kB\nNew:  5\n\nMemFree:\nActive(file): x\nMemAvailable:99999999999999999999 kB"))
	f.Add([]byte(":\n: 1\nZswap:12"))
	f.Fuzz(func(t *testing.T, host []byte) {
		out := meminfoOf(host).append(nil)
		want := bytes.Count(host, []byte("\n"))
		if len(host) > 0 && host[len(host)-1] != '\n' {
			want++
		}
		if got := bytes.Count(out, []byte("\n")); got != want {
			t.Fatalf("%d lines became %d", want, got)
		}
	})
}

// FuzzStat gives a container any history of CPU time.
func FuzzStat(f *testing.F) {
	f.Add(int64(1e9), uint64(5e8), uint64(1e8), uint64(0), []byte{0, 3})
	f.Add(int64(1), ^uint64(0), ^uint64(0), ^uint64(0), []byte{255})
	f.Fuzz(func(t *testing.T, age int64, user, system, nice uint64, cpus []byte) {
		const most = 1 << 61 // what package cgroup hands out at most
		var a account
		v := &stat{host: []byte(hostStat)}
		var last []byte
		var shown uint64
		for i, c := range append(cpus, 0) {
			v.age = (age & (1<<55 - 1)) * int64(i+1)
			v.visible.Clear()
			v.visible.Add(int(c))
			v.visible.Add(int(c) / 2)
			a.step(&v.cpuTimes, &cgroup.CPUTime{
				User: user % most / 8 * uint64(i+1), System: system % most / 8 * uint64(i+1), Nice: nice % most / 8 * uint64(i+1),
			})
			last = v.append(last[:0])
			if busy := v.total.user + v.total.system + v.total.nice; busy < shown {
				t.Fatalf("busy time went back from %d to %d", shown, busy)
			} else {
				shown = busy
			}
		}
		_, st := oracle(t, []byte("MemTotal: 1 kB\n"), last)
		if len(st.CPU) != v.visible.Count() || st.BootTime != 9 || st.ContextSwitches != 7 {
			t.Fatalf("read back as %+v:\n%s", st, last)
		}
	})
}

// FuzzUptime checks the format: two numbers with two digits behind the point.
func FuzzUptime(f *testing.F) {
	format := regexp.MustCompile(`^\d+\.\d\d \d+\.\d\d\n$`)
	f.Add(int64(1), uint64(0))
	f.Add(int64(9e18), ^uint64(0))
	f.Fuzz(func(t *testing.T, age int64, idle uint64) {
		v := &uptime{idle: idle, up: age & (1<<55 - 1)}
		out := v.append(nil)
		if !format.Match(out) {
			t.Fatalf("%q", out)
		}
	})
}
