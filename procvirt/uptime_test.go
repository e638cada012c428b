// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

// cpuHost is a captured host whose container's CPU time, quota and clock a test
// sets.
type cpuHost struct {
	tb      testing.TB
	h       *fixture.Host
	v       *Registry
	s       *Subject
	now     int64
	cpu     cgroup.Place
	acct    cgroup.Place
	started int64
}

func newCPUHost(tb testing.TB, name string) *cpuHost {
	tb.Helper()
	c := &cpuHost{tb: tb, h: fixture.Load(tb, filepath.Join("testdata/host", name+".txtar"))}
	c.now = c.h.Boottime
	c.v = fixtureRegistry(tb, c.h, func(cfg *Config) { cfg.Now = func() int64 { return c.now } })
	c.s = subject(tb, c.h, c.h.Init)
	mounts, err := cgroup.Discover(c.h.Root)
	if err != nil {
		tb.Fatal(err)
	}
	for ctl, to := range map[cgroup.Controller]*cgroup.Place{cgroup.CPU: &c.cpu, cgroup.CPUAcct: &c.acct} {
		if *to, err = mounts.Locate(ctl, cgroup.Auto, c.s.Groups, c.s.Groups); err != nil {
			tb.Fatal(err)
		}
	}
	fields := strings.Fields(string(c.h.Read(tb, fmt.Sprintf("proc/%d/stat", c.h.Init))))
	ticks, err := strconv.ParseInt(fields[21], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	c.started = ticks * 1e7
	return c
}

func (c *cpuHost) write(dir, name, text string) {
	c.tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		c.tb.Fatal(err)
	}
}

// setQuota gives the container so many CPUs.
func (c *cpuHost) setQuota(cpus int) {
	c.tb.Helper()
	if c.cpu.V2 {
		c.write(c.cpu.Dirs[0], "cpu.max", fmt.Sprintf("%d 100000\n", cpus*100000))
		return
	}
	c.write(c.cpu.Dirs[0], "cpu.cfs_quota_us", fmt.Sprintf("%d\n", cpus*100000))
}

// setUsed sets the CPU time that the group has used, in milliseconds of each of
// two CPUs, all of it user time.
func (c *cpuHost) setUsed(cpu0, cpu1 int) {
	c.tb.Helper()
	if dir := c.acct.Dirs[0]; c.acct.V2 {
		us := (cpu0 + cpu1) * 1000
		c.write(dir, "cpu.stat", fmt.Sprintf("usage_usec %d\nuser_usec %d\nsystem_usec 0\n", us, us))
	} else {
		c.write(dir, "cpuacct.usage", fmt.Sprintf("%d000000\n", cpu0+cpu1))
		c.write(dir, "cpuacct.usage_percpu", fmt.Sprintf("%d000000 %d000000 \n", cpu0, cpu1))
		c.write(dir, "cpuacct.usage_all", fmt.Sprintf("cpu user system\n0 %d000000 0\n1 %d000000 0\n", cpu0, cpu1))
	}
}

// idle returns the idle time of uptime and of the cpu line of stat, in
// hundredths of a second, and the cpu line's user and system time.
func (c *cpuHost) idle() (uptime, stat, used uint64) {
	c.tb.Helper()
	up := strings.Fields(string(render(c.tb, c.v, "uptime", c.s)))
	uptime, err := strconv.ParseUint(strings.Replace(up[1], ".", "", 1), 10, 64)
	if err != nil {
		c.tb.Fatal(err)
	}
	line := strings.Fields(string(render(c.tb, c.v, "stat", c.s)))
	var n [4]uint64
	for i := range n {
		if n[i], err = strconv.ParseUint(line[1+i], 10, 64); err != nil {
			c.tb.Fatal(err)
		}
	}
	return uptime, n[3], n[0] + n[1] + n[2]
}

var cpuHosts = []string{"trixie-v2", "dev-hybrid"}

func TestUptimesIdleIsThatOfStatAndNeverGoesBack(t *testing.T) {
	for _, name := range cpuHosts {
		t.Run(name, func(t *testing.T) {
			c := newCPUHost(t, name)
			c.now = c.started + 10e9
			var last uint64
			for i, step := range []struct{ quota, used0, used1 int }{
				{2, 100, 100}, {2, 200, 100}, {1, 200, 100}, {1, 900, 100}, {1, 2800, 200}, {2, 2900, 200}, {1, 3000, 300}, {2, 3000, 300},
			} {
				c.setQuota(step.quota)
				c.setUsed(step.used0, step.used1)
				uptime, stat, _ := c.idle()
				if uptime != stat || stat < last {
					t.Errorf("step %d: idle is %d in uptime and %d in stat; it was %d before", i, uptime, stat, last)
				}
				last = stat
				c.now += 3e9
			}
		})
	}
}

// TestTimeUsedBeforeAResizeIsShown has a container of two CPUs work on both, and
// then have one, before anybody reads.
func TestTimeUsedBeforeAResizeIsShown(t *testing.T) {
	for _, name := range cpuHosts {
		t.Run(name, func(t *testing.T) {
			c := newCPUHost(t, name)
			c.now = c.started + 9e9
			c.setQuota(1)
			c.setUsed(8000, 7900)
			for range 2 {
				if _, _, used := c.idle(); used != 1590 {
					t.Errorf("%d ticks are shown, the group used 1590", used)
				}
				c.now += 2e9
			}
		})
	}
}

// TestTimeNamespacesShift has the init in a time namespace: its processes see start
// times that are shifted, and programs add them to btime.
func TestTimeNamespacesShift(t *testing.T) {
	for _, tt := range []struct {
		rule, own, offsets string
		seconds            int64
		virtual            bool
	}{
		{"no time namespaces", "", "", 0, true},
		{"an offset of 0", "", "monotonic           0         0\nboottime            0         0\n", 0, true},
		{"ahead", "", "monotonic          -5         0\nboottime       100000         0\n", 100000, false},
		{"behind", "", "monotonic           0         0\nboottime          -30         0\n", -30, false},
		{"the daemon's own", "monotonic 0 0\nboottime 70 0\n", "monotonic 0 0\nboottime 70 0\n", 0, true},
		{"beside the daemon's own", "monotonic 0 0\nboottime 70 0\n", "monotonic 0 0\nboottime 100 0\n", 30, false},
	} {
		c := &cpuHost{tb: t, h: load(t, "trixie-v2")}
		for pid, text := range map[string]string{strconv.Itoa(c.h.Init): tt.offsets, "self": tt.own} {
			if text != "" {
				c.write(filepath.Join(c.h.Root, "proc", pid), "timens_offsets", text)
			}
		}
		v := fixtureRegistry(t, c.h, nil)
		s := subject(t, c.h, c.h.Init)
		start := int64(0)
		if tt.virtual {
			fields := strings.Fields(string(c.h.Read(t, fmt.Sprintf("proc/%d/stat", c.h.Init))))
			start, _ = strconv.ParseInt(fields[21], 10, 64)
		}
		want := c.h.Boottime/1e7 - start + tt.seconds*100
		up := string(render(t, v, "uptime", s))
		if !strings.HasPrefix(up, fmt.Sprintf("%d.%02d ", want/100, want%100)) {
			t.Errorf("%s: uptime %q, want %d hundredths", tt.rule, up, want)
		}
		btime := func(text []byte) (n int64) {
			_, after, _ := strings.Cut(string(text), "\nbtime ")
			n, _ = strconv.ParseInt(after[:strings.IndexByte(after, '\n')], 10, 64)
			return n
		}
		stat, host := render(t, v, "stat", s), c.h.Read(t, "proc/stat")
		if got, want := btime(stat), btime(host)-tt.seconds; got != want {
			t.Errorf("%s: btime %d, want %d", tt.rule, got, want)
		}
		_, rest, _ := strings.Cut(string(stat), "\nintr")
		_, hostRest, _ := strings.Cut(string(host), "\nintr")
		if strings.Count(rest, "\n") != strings.Count(hostRest, "\n") {
			t.Errorf("%s: other lines changed:\n%s", tt.rule, rest)
		}
	}
}
