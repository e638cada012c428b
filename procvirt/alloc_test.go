// SPDX-License-Identifier: Apache-2.0

//go:build !race

// The race detector makes sync.Pool forget at random, so that nothing can be
// said about allocations under it.

package procvirt

import (
	"bytes"
	"fmt"
	"testing"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

func TestWarmContentCostsNoAllocation(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		v := fixtureRegistry(t, h, nil)
		for _, role := range []string{"child", "host", "below"} {
			s := subject(t, h, h.Roles[role])
			for _, f := range v.Files() {
				dst := renderFile(t, v, f, s)
				pid, turn := pidOf(t, v, s), &fakeTurn{}
				n := testing.AllocsPerRun(200, func() {
					if _, err := appendFile(v, dst[:0], f, pid, turn); err != nil {
						t.Fatal(err)
					}
				})
				if n != 0 {
					t.Errorf("%s: %v of %s: %v allocations", h.Name, f, role, n)
				}
			}
		}
	}
}

// TestWarmPolicyCostsNoAllocation, whatever the policy is.
func TestWarmPolicyCostsNoAllocation(t *testing.T) {
	h := load(t, "bookworm-v2")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	pid, turn := pidOf(t, r, s), &fakeTurn{}
	for _, policy := range []string{"view=off", "cpu=request swap=off files=meminfo,cpu", "colour=blue"} {
		setPolicy(t, policyDirs(t, r, s)[0], policy)
		for _, name := range []string{"meminfo", "cpu/online", "uptime"} {
			f := fileNamed(t, r, name)
			dst := renderFile(t, r, f, s)
			n := testing.AllocsPerRun(100, func() {
				if _, err := appendFile(r, dst[:0], f, pid, turn); err != nil {
					t.Fatal(err)
				}
			})
			if n != 0 {
				t.Errorf("%s, %s: %v allocations", policy, name, n)
			}
		}
	}
}

// manyCPUs is the stat of a host with n CPUs, all of them visible.
func manyCPUs(n int) *stat {
	v := &stat{}
	v.age = 1e15
	var host bytes.Buffer
	host.WriteString("cpu  1 2 3 4 5 6 7 8 9 10\n")
	for c := range n {
		v.visible.Add(c)
		v.rows = append(v.rows, cpuRow{cpu: c, user: 1e11, system: 1e10, idle: 9e11})
		fmt.Fprintf(&host, "cpu%d 1 2 3 4 5 6 7 8 9 10\n", c)
	}
	host.WriteString("intr 1")
	for range 32 << 10 {
		host.WriteString(" 0")
	}
	host.WriteString("\nctxt 1\nbtime 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 1\n")
	v.host = host.Bytes()
	return v
}

func TestRenderingManyCPUsCostsNoAllocation(t *testing.T) {
	v := manyCPUs(512)
	dst := v.append(nil)
	if len(dst) < 64<<10 || bytes.Count(dst, []byte("\ncpu")) != 512 {
		t.Fatalf("%d bytes, %d rows", len(dst), bytes.Count(dst, []byte("\ncpu")))
	}
	if n := testing.AllocsPerRun(100, func() { dst = v.append(dst[:0]) }); n != 0 {
		t.Errorf("rendering: %v allocations", n)
	}
	var a account
	used := &cgroup.CPUTime{PerCPU: make([]uint64, 512)}
	if n := testing.AllocsPerRun(100, func() {
		v.age += 1e9
		for c := range used.PerCPU {
			used.PerCPU[c] += 1e5
			used.User += 1e5
		}
		a.step(&v.cpuTimes, used)
	}); n != 0 {
		t.Errorf("accounting: %v allocations", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, h := range fixture.All(b, "testdata/host") {
		v := fixtureRegistry(b, h, nil)
		s := subject(b, h, h.Roles["child"])
		for _, f := range v.Files() {
			b.Run(h.Name+"/"+f.String(), func(b *testing.B) {
				dst := renderFile(b, v, f, s)
				pid, turn := pidOf(b, v, s), &fakeTurn{}
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if dst, err = appendFile(v, dst[:0], f, pid, turn); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkRenderCPUInfo(b *testing.B) {
	for _, n := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprintf("cpus=%d", n), func(b *testing.B) {
			v := &cpuinfo{host: parseCPUInfo(cpuinfoOf(n))}
			for c := range n {
				v.visible.Add(c)
			}
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				v.countPackages()
				dst = v.append(dst[:0])
			}
		})
	}
}

func BenchmarkRenderStat(b *testing.B) {
	for _, n := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprintf("cpus=%d", n), func(b *testing.B) {
			v := manyCPUs(n)
			dst := v.append(nil)
			b.ReportAllocs()
			for b.Loop() {
				dst = v.append(dst[:0])
			}
		})
	}
}

func TestWarmSysinfoCostsNoAllocation(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		r := fixtureRegistry(t, h, nil)
		s := subject(t, h, h.Roles["child"])
		sysinfoOf(t, r, s)
		pid, turn := pidOf(t, r, s), &fakeTurn{}
		n := testing.AllocsPerRun(200, func() {
			c, err := r.Acquire(pid, turn)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Release()
			var info Sysinfo
			if err := c.Sysinfo(&info); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", h.Name, n)
		}
	}
}
