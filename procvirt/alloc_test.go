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
		v := fixtureViews(t, h, nil)
		for _, role := range []string{"child", "host", "below"} {
			s := subject(t, h, h.Roles[role])
			for f := range numFiles {
				dst := render(t, v, f, s)
				n := testing.AllocsPerRun(200, func() {
					_, err := v.Append(dst[:0], f, s, false)
					if err == ErrCold { // it took long the last time, on a busy machine
						_, err = v.Append(dst[:0], f, s, true)
					}
					if err != nil {
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

// manyCPUs is a View of a host with n CPUs, all of them visible.
func manyCPUs(n int) *View {
	v := &View{Age: 1e15}
	var host bytes.Buffer
	host.WriteString("cpu  1 2 3 4 5 6 7 8 9 10\n")
	for c := range n {
		v.Visible.Add(c)
		v.Rows = append(v.Rows, CPURow{CPU: c, User: 1e14, System: 1e13, Idle: 9e14})
		fmt.Fprintf(&host, "cpu%d 1 2 3 4 5 6 7 8 9 10\n", c)
	}
	host.WriteString("intr 1")
	for range 32 << 10 {
		host.WriteString(" 0")
	}
	host.WriteString("\nctxt 1\nbtime 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 1\n")
	v.Host = host.Bytes()
	return v
}

func TestRenderingManyCPUsCostsNoAllocation(t *testing.T) {
	v := manyCPUs(512)
	dst := appendStat(nil, v)
	if len(dst) < 64<<10 || bytes.Count(dst, []byte("\ncpu")) != 512 {
		t.Fatalf("%d bytes, %d rows", len(dst), bytes.Count(dst, []byte("\ncpu")))
	}
	if n := testing.AllocsPerRun(100, func() { dst = appendStat(dst[:0], v) }); n != 0 {
		t.Errorf("rendering: %v allocations", n)
	}
	var a account
	used := &cgroup.CPUTime{PerCPU: make([]uint64, 512)}
	if n := testing.AllocsPerRun(100, func() {
		v.Age += 1e9
		for c := range used.PerCPU {
			used.PerCPU[c] += 1e8
			used.User += 1e8
		}
		a.step(v, used)
	}); n != 0 {
		t.Errorf("accounting: %v allocations", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, h := range fixture.All(b, "testdata/host") {
		v := fixtureViews(b, h, nil)
		s := subject(b, h, h.Roles["child"])
		for f := range numFiles {
			b.Run(h.Name+"/"+f.String(), func(b *testing.B) {
				dst := render(b, v, f, s)
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if dst, err = v.Append(dst[:0], f, s, false); err != nil {
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
			v := &View{Host: cpuinfoOf(n)}
			for c := range n {
				v.Visible.Add(c)
			}
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				v.countPackages()
				dst = appendCPUInfo(dst[:0], v)
			}
		})
	}
}

func BenchmarkRenderStat(b *testing.B) {
	for _, n := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprintf("cpus=%d", n), func(b *testing.B) {
			v := manyCPUs(n)
			dst := appendStat(nil, v)
			b.ReportAllocs()
			for b.Loop() {
				dst = appendStat(dst[:0], v)
			}
		})
	}
}
