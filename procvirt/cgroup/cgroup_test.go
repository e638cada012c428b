// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vprocfs/internal/mountinfo"
	"vprocfs/procvirt/held"
)

const mountTable = `31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
90 31 0:31 /docker/x /var/lib/ct/sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
32 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/mem\040ory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`

const (
	ctInit  = "4:memory:/lxc/a\n3:cpu,cpuacct:/lxc/a:b/init.scope\n1:name=systemd:/lxc/a\n0::/lxc/a/init.scope\n"
	ctBelow = "4:memory:/lxc/a/sub\n3:cpu,cpuacct:/lxc/a:b/s\n0::/lxc/a/x\n"
	ctOther = "4:memory:/lxc/ab\n3:cpu,cpuacct:/\n0::/lxc/b\n"
)

// parseMounts returns the Mounts of a mountinfo.
func parseMounts(t *testing.T, text, root string, initNS bool) *Mounts {
	t.Helper()
	list, err := mountinfo.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return newMounts(list, root, initNS)
}

// withV2 gives the v2 tree all controllers.
func withV2(m *Mounts) *Mounts {
	for c := range m.inV2 {
		m.inV2[c] = true
	}
	return m
}

func TestLocate(t *testing.T) {
	m := withV2(parseMounts(t, mountTable, "/r", true))
	for _, tt := range []struct {
		rule         string
		c            Controller
		policy       Policy
		caller, init string
		want         Place
	}{
		{"a caller below the init's group is in the init's", Memory, Auto, ctBelow, ctInit,
			Place{Path: "/lxc/a", Dirs: []string{"/r/sys/fs/cgroup/mem ory/lxc/a", "/r/sys/fs/cgroup/mem ory/lxc"}}},
		{"a trailing /init.scope is systemd's, colons belong to names", CPU, Auto, ctBelow, ctInit,
			Place{Path: "/lxc/a:b", Dirs: []string{"/r/sys/fs/cgroup/cpu,cpuacct/lxc/a:b", "/r/sys/fs/cgroup/cpu,cpuacct/lxc"}}},
		{"a caller elsewhere is in its own, /lxc/ab is not below /lxc/a", Memory, Auto, ctOther, ctInit,
			Place{Path: "/lxc/ab", Dirs: []string{"/r/sys/fs/cgroup/mem ory/lxc/ab", "/r/sys/fs/cgroup/mem ory/lxc"}}},
		{"each controller by itself: this one is at the root", CPUAcct, Auto, ctOther, ctInit,
			Place{Path: "/", Root: true, Dirs: []string{"/r/sys/fs/cgroup/cpu,cpuacct"}}},
		{"policy init takes the init's always", Memory, Init, ctOther, ctInit,
			Place{Path: "/lxc/a", Dirs: []string{"/r/sys/fs/cgroup/mem ory/lxc/a", "/r/sys/fs/cgroup/mem ory/lxc"}}},
		{"policy caller takes the caller's always", Memory, Caller, ctBelow, ctInit,
			Place{Path: "/lxc/a/sub", Dirs: []string{"/r/sys/fs/cgroup/mem ory/lxc/a/sub", "/r/sys/fs/cgroup/mem ory/lxc/a", "/r/sys/fs/cgroup/mem ory/lxc"}}},
		{"a controller that no v1 hierarchy has is in v2", CPUSet, Auto, ctBelow, ctInit,
			Place{V2: true, Path: "/lxc/a", Dirs: []string{"/r/sys/fs/cgroup/unified/lxc/a", "/r/sys/fs/cgroup/unified/lxc"}}},
	} {
		p, err := m.Locate(tt.c, tt.policy, []byte(tt.caller), []byte(tt.init))
		if err != nil {
			t.Errorf("%s: %v", tt.rule, err)
		}
		p.Top = ""
		if d := cmp.Diff(tt.want, p); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.rule, d)
		}
	}
}

func TestLocateErrors(t *testing.T) {
	part := withV2(parseMounts(t, "1 1 0:1 /pod/x /sys/fs/cgroup rw - cgroup2 c rw\n", "/r", false))
	none := withV2(parseMounts(t, mountTable, "/r", true))
	none.v2 = nil
	bare := parseMounts(t, mountTable, "/r", true)
	for _, tt := range []struct {
		rule   string
		m      *Mounts
		caller string
		want   error
	}{
		{"outside the cgroup namespace", part, "0::/../other\n", ErrOutside},
		{"outside the mounted part", part, "0::/pod/xy\n", ErrOutside},
		{"no such controller", none, ctBelow, ErrNoController},
		{"not in the v2 tree either", bare, ctBelow, ErrNoController},
		{"removed", withV2(parseMounts(t, mountTable, t.TempDir(), true)), "0::/gone (deleted)\n", ErrRemoved},
	} {
		if _, err := tt.m.Locate(CPUSet, Auto, []byte(tt.caller), nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.rule, err, tt.want)
		}
	}
}

// TestTheTopOfACgroupNamespaceCounts guards a daemon in a container: what it sees
// as the root is a group with limits.
func TestTheTopOfACgroupNamespaceCounts(t *testing.T) {
	m := withV2(parseMounts(t, "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 c rw\n", "/", false))
	p, err := m.Locate(Memory, Auto, []byte("0::/a\n"), nil)
	if err != nil || p.Root || len(p.Dirs) != 2 || p.Dirs[1] != "/sys/fs/cgroup" {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = m.Locate(Memory, Auto, []byte("0::/\n"), nil)
	if err != nil || p.Root || len(p.Dirs) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestAGroupNamedDeletedIsAlive(t *testing.T) {
	root := t.TempDir()
	m := withV2(parseMounts(t, mountTable, root, true))
	dir := filepath.Join(root, "sys/fs/cgroup/unified/odd (deleted)")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := m.Locate(CPUSet, Auto, []byte("0::/odd (deleted)\n"), nil)
	if err != nil || p.Dirs[0] != dir {
		t.Errorf("%+v, %v", p, err)
	}
}

// write makes files below a directory of their own, each NAME, TEXT.
func write(t *testing.T, dir string, files ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func levels(root string) Place {
	return Place{V2: true, Dirs: []string{root + "/a/b/c", root + "/a/b", root + "/a"}, Top: root}
}

func TestLimitsHoldThroughTheHierarchy(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a", "memory.max", "300\n", "memory.current", "9\n", "memory.stat", "anon 1\nactive_file 4\n", "memory.swap.max", "70\n", "memory.swap.current", "8\n", "cpu.max", "250000 100000\n")
	write(t, root+"/a/b", "memory.max", "max\n", "memory.current", "7\n", "memory.stat", "anon 5\n", "memory.swap.max", "0\n", "memory.swap.current", "6\n", "cpu.max", "max 100000\n", "cpuset.cpus.effective", "1-2\n")
	write(t, root+"/a/b/c", "cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n")
	var o held.Opener
	m, err := OpenMemory(&o, levels(root))
	if err != nil {
		t.Fatal(err)
	}
	var u MemoryUsage
	if _, err := m.Read(&u, NoLimit, NoLimit, nil); err != nil {
		t.Fatal(err)
	}
	want := MemoryUsage{Limit: 300, Free: 291, Available: 295, SwapAccounted: true, SwapLimit: 0, SwapFree: 0}
	if d := cmp.Diff(want, u); d != "" || !m.Incomplete {
		t.Errorf("not enabled in the leaf: incomplete %v (-want +got):\n%s", m.Incomplete, d)
	}
	p := levels(root)
	c, err := OpenCPU(&o, CPUPlaces{p, p, p})
	if err != nil {
		t.Fatal(err)
	}
	quota, _, err := c.Quota(nil)
	if quota != 3 || err != nil || !c.Incomplete {
		t.Errorf("quota %d CPUs, %v, incomplete %v", quota, err, c.Incomplete)
	}
	var set CPUs
	if _, err := c.Effective(&set, nil); err != nil || set.String() != "1-2" {
		t.Errorf("CPUs %v, %v", &set, err)
	}
	if us, _, err := c.Usage(0, nil); us != 5 || err != nil {
		t.Errorf("used %d us, %v", us, err)
	}
	m.Close()
	c.Close()
	if o.Count() != 0 {
		t.Errorf("%d files are still open", o.Count())
	}
}

// A quota that is set when the files are open counts.
func TestQuotaOfV1ThatIsSetLater(t *testing.T) {
	root := t.TempDir()
	quota := func(text string) { write(t, root, "cpu.cfs_quota_us", text+"\n") }
	write(t, root, "cpu.cfs_period_us", "50000\n", "cpuacct.usage", "0\n", "cpuacct.usage_percpu", "0\n", "cpuacct.usage_all", "cpu user system\n0 0 0\n")
	quota("-1")
	var o held.Opener
	p := Place{Dirs: []string{root}}
	c, err := OpenCPU(&o, CPUPlaces{CPU: p, CPUAcct: p})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if o.Count() != 5 {
		t.Errorf("%d files are open, want the quota, its period and three of cpuacct", o.Count())
	}
	buf := make([]byte, 4096)
	for _, tt := range []struct {
		quota string
		want  int
	}{{"-1", 0}, {"100000", 2}, {"100001", 3}, {"-1", 0}} {
		quota(tt.quota)
		if got, _, err := c.Quota(buf); got != tt.want || err != nil {
			t.Errorf("quota %s: %d CPUs, %v; want %d", tt.quota, got, err, tt.want)
		}
	}
	quota("100000")
	if n := testing.AllocsPerRun(20, func() {
		if _, _, err := c.Quota(buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNothingIsReadBehindAQuotaOfOneCPU: no quota above is smaller in whole CPUs.
func TestNothingIsReadBehindAQuotaOfOneCPU(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a", "cpu.max", "garbage\n")
	write(t, root+"/a/b", "cpu.max", "250000 100000\n")
	write(t, root+"/a/b/c", "cpu.max", "70000 100000\n", "cpu.stat", "usage_usec 5\n")
	var o held.Opener
	p := levels(root)
	c, err := OpenCPU(&o, CPUPlaces{CPU: p, CPUAcct: p})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if quota, _, err := c.Quota(nil); quota != 1 || err != nil {
		t.Errorf("a quota of %d CPUs, %v", quota, err)
	}
	write(t, root+"/a/b/c", "cpu.max", "100001 100000\n")
	if _, _, err := c.Quota(nil); err == nil {
		t.Error("with two CPUs the quotas above were not read")
	}
}

func TestSwapOfV1(t *testing.T) {
	const mi = 1 << 20
	for _, tt := range []struct {
		rule                    string
		memory, memsw, swappy   string
		usage, both             string
		wantLimit, wantUsage    uint64
		noAccounting, wantNoAcc bool
	}{
		{rule: "memory and swap together bound what may be swapped", memory: "268435456", memsw: "536870912", swappy: "60", usage: "1048576", both: "3145728", wantLimit: 512 * mi, wantUsage: 2 * mi},
		{rule: "no limit", memory: "9223372036854771712", memsw: "9223372036854771712", swappy: "60", usage: "1048576", both: "1048576", wantLimit: NoLimit},
		{rule: "a swappiness of 0 leaves what is swapped", memory: "268435456", memsw: "536870912", swappy: "0", usage: "1048576", both: "2097152", wantLimit: mi, wantUsage: mi},
		{rule: "counters read one after the other never go below 0", memory: "268435456", memsw: "536870912", swappy: "60", usage: "4096", both: "0", wantLimit: 512 * mi},
		{rule: "no accounting", noAccounting: true, memory: "268435456", memsw: "0", usage: "1", wantLimit: 0, wantNoAcc: true},
	} {
		root := t.TempDir()
		write(t, root, "memory.usage_in_bytes", tt.usage+"\n", "memory.stat",
			"hierarchical_memory_limit "+tt.memory+"\nhierarchical_memsw_limit "+tt.memsw+"\n")
		if !tt.noAccounting {
			write(t, root, "memory.memsw.usage_in_bytes", tt.both+"\n", "memory.swappiness", tt.swappy+"\n")
		}
		var o held.Opener
		m, err := OpenMemory(&o, Place{Dirs: []string{root}})
		if err != nil {
			t.Fatal(err)
		}
		var u MemoryUsage
		if _, err := m.Read(&u, NoLimit, NoLimit, nil); err != nil {
			t.Fatal(err)
		}
		if u.SwapAccounted == tt.wantNoAcc || u.SwapAccounted && u.SwapLimit != tt.wantLimit || u.SwapUsage != tt.wantUsage {
			t.Errorf("%s: %+v", tt.rule, u)
		}
		m.Close()
	}
}

func TestV1CPUNumbersMayHaveGaps(t *testing.T) {
	var c CPUTime
	user, system, err := c.parseAll([]byte("cpu user system\n0 30000 10000\n5 0 0\n64 50000 10000\n"))
	if err != nil {
		t.Fatal(err)
	}
	c.parsePerCPU([]byte("1000500 0 3000500 \n"), user, system)
	if len(c.PerCPU) != 65 || c.PerCPU[0] != 1000 || c.PerCPU[64] != 3000 || c.User != 3200 || c.System != 801 {
		t.Errorf("%+v", c)
	}
}
