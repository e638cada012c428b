// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

func load(tb testing.TB, name string) *fixture.Host {
	return fixture.Load(tb, filepath.Join("testdata/host", name+".txtar"))
}

// oracleFS hands what was rendered to prometheus/procfs.
func oracleFS(tb testing.TB, files map[string][]byte) procfs.FS {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	fs, err := procfs.NewFS(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return fs
}

// oracle parses what was rendered with prometheus/procfs.
func oracle(tb testing.TB, meminfo, stat []byte) (procfs.Meminfo, procfs.Stat) {
	tb.Helper()
	fs := oracleFS(tb, map[string][]byte{"meminfo": meminfo, "stat": stat})
	m, err := fs.Meminfo()
	if err != nil {
		tb.Fatalf("prometheus/procfs on meminfo: %v\n%s", err, meminfo)
	}
	s, err := fs.Stat()
	if err != nil {
		tb.Fatalf("prometheus/procfs on stat: %v\n%s", err, stat)
	}
	return m, s
}

// cpuinfoOracle reads x86's layout: procfs knows only the one of the machine.
func cpuinfoOracle(tb testing.TB, text []byte) []procfs.CPUInfo {
	tb.Helper()
	if runtime.GOARCH != "amd64" {
		tb.Skipf("prometheus/procfs reads cpuinfo as %s has it; this is x86's", runtime.GOARCH)
	}
	cpus, err := oracleFS(tb, map[string][]byte{"cpuinfo": text}).CPUInfo()
	if err != nil {
		tb.Fatalf("prometheus/procfs on cpuinfo: %v\n%s", err, text)
	}
	return cpus
}

// number reads a captured file of one number.
func number(tb testing.TB, h *fixture.Host, path string) uint64 {
	tb.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(string(h.Read(tb, path))), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// keyed reads one key of a captured flat keyed file.
func keyed(tb testing.TB, h *fixture.Host, path, key string) uint64 {
	tb.Helper()
	for line := range strings.Lines(string(h.Read(tb, path))) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return n
		}
	}
	tb.Fatalf("%s has no %s", path, key)
	return 0
}

// TestNumbersAreTheGroups compares what is shown with the captured files of the
// control groups, read in another way.
func TestNumbersAreTheGroups(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		t.Run(h.Name, func(t *testing.T) {
			s := subject(t, h, h.Roles["child"])
			v := fixtureRegistry(t, h, nil)
			m, st := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
			var total, usage, cached, anon, used uint64
			base := h.Read(t, fmt.Sprintf("proc/%d/cgroup", h.Init))
			if path := strings.TrimSpace(string(base[bytes.LastIndex(base, []byte("0::"))+3:])); h.Layout == "v2" {
				dir := filepath.Join("sys/fs/cgroup", path)
				used = keyed(t, h, dir+"/cpu.stat", "usage_usec")
				for !exists(filepath.Join(h.Root, dir, "memory.max")) {
					dir = filepath.Dir(dir)
				}
				total, usage = number(t, h, dir+"/memory.max"), number(t, h, dir+"/memory.current")
				if dir == filepath.Join("sys/fs/cgroup", path) { // an ancestor's are not the container's
					cached, anon = keyed(t, h, dir+"/memory.stat", "file"), keyed(t, h, dir+"/memory.stat", "anon")
				}
			} else {
				groups := map[string]string{}
				for line := range strings.Lines(string(base)) {
					f := strings.SplitN(strings.TrimSpace(line), ":", 3)
					for _, c := range strings.Split(f[1], ",") {
						groups[c] = f[2]
					}
				}
				dir := filepath.Join("sys/fs/cgroup/memory", groups["memory"])
				total, usage = number(t, h, dir+"/memory.limit_in_bytes"), number(t, h, dir+"/memory.usage_in_bytes")
				cached, anon = keyed(t, h, dir+"/memory.stat", "total_cache"), keyed(t, h, dir+"/memory.stat", "total_rss")
				mount := "sys/fs/cgroup/cpuacct"
				if !exists(filepath.Join(h.Root, mount)) {
					mount = "sys/fs/cgroup/cpu,cpuacct"
				}
				used = number(t, h, filepath.Join(mount, groups["cpuacct"], "cpuacct.usage")) / 1000
			}
			for _, c := range []struct {
				what      string
				got, want uint64
			}{
				{"MemTotal", *m.MemTotal, total >> 10},
				{"MemFree", *m.MemFree, (total - usage) >> 10},
				{"Cached", *m.Cached, cached >> 10},
				{"AnonPages", *m.AnonPages, anon >> 10},
				{"Buffers", *m.Buffers, 0},
			} {
				if c.got != c.want {
					t.Errorf("%s is %d kB, the group's is %d", c.what, c.got, c.want)
				}
			}
			if len(st.CPU) != 2 {
				t.Errorf("%d CPUs, want 2: the quota is 1.5", len(st.CPU))
			}
			shown := (st.CPUTotal.User + st.CPUTotal.Nice + st.CPUTotal.System) * 1e6
			if d := shown - float64(used); d < -30_000 || d > 10_000 {
				t.Errorf("stat shows %.0f us of CPU time, the group used %d", shown, used)
			}
		})
	}
}

// pathOf is where the host has a file.
func pathOf(f *File) string {
	if strings.HasPrefix(f.String(), "cpu/") {
		return "sys/devices/system/" + f.String()
	}
	return "proc/" + f.String()
}

func TestRootCgroupGetsTheHostsFiles(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := &Subject{NS: 1, Init: 1, Host: true, Groups: []byte("0::/\n")}
	for _, f := range v.Files() {
		for range 2 {
			if got := renderFile(t, v, f, s); !bytes.Equal(got, h.Read(t, pathOf(f))) {
				t.Errorf("%v is not the host's:\n%s", f, got)
			}
		}
		if n := v.Stats()[f.String()+"/root-cgroup"]; n != 2 {
			t.Errorf("%v: %d fallbacks counted, want 2", f, n)
		}
		// the second time nothing is left to find out
		if blocks(t, v, f.String(), s) {
			t.Errorf("%v blocks", f)
		}
	}
}

func TestFallbacksAreNamed(t *testing.T) {
	h := load(t, "trixie-v2")
	for want, s := range map[string]*Subject{
		"outside-cgroup": {NS: 1, Init: 1, Host: true, Groups: []byte("0::/../x\n")},
		"removed-cgroup": {NS: 1, Init: 1, Host: true, Groups: []byte("0::/gone (deleted)\n")},
		"no-controller":  {NS: 1, Init: 1, Host: true, Groups: []byte("7:memory:/x\n")},
		"no-init":        {NS: 2, Init: 999999, Groups: []byte("0::/machine/ct1\n")},
	} {
		v := fixtureRegistry(t, h, nil)
		if got := render(t, v, "meminfo", s); !bytes.Equal(got, h.Read(t, "proc/meminfo")) {
			t.Errorf("%s: not the host's meminfo", want)
		}
		if all := v.Stats(); all["meminfo/"+want] != 1 || len(all) != 1 {
			t.Errorf("want one meminfo/%s, got %v", want, all)
		}
	}
}

func TestLimitsShowAtOnce(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	total := func() uint64 {
		m, _ := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
		return *m.MemTotal
	}
	set := func(file, text string) {
		if err := os.WriteFile(filepath.Join(h.Root, "sys/fs/cgroup/machine", file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := total(); got != 256<<10 {
		t.Fatalf("MemTotal %d kB", got)
	}
	set("ct1/memory.max", "134217728\n")
	if got := total(); got != 128<<10 {
		t.Errorf("own limit lowered: %d kB", got)
	}
	set("memory.max", "67108864\n")
	if got := total(); got != 64<<10 {
		t.Errorf("limit above lowered: %d kB", got)
	}
	set("ct1/cpu.max", "50000 100000\n")
	if _, st := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s)); len(st.CPU) != 1 {
		t.Errorf("%d CPUs with half a CPU of quota", len(st.CPU))
	}
}

func TestOptions(t *testing.T) {
	h := load(t, "trixie-v2")
	s := subject(t, h, h.Roles["child"])
	mem := func(change func(*Config)) procfs.Meminfo {
		v := fixtureRegistry(t, h, change)
		m, _ := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
		return m
	}
	if m := mem(nil); *m.SwapTotal == 0 {
		t.Error("the fixture has no swap")
	}
	if m := mem(func(c *Config) { c.NoSwap = true }); *m.SwapTotal != 0 || *m.SwapFree != 0 {
		t.Errorf("swap off: %d, %d", *m.SwapTotal, *m.SwapFree)
	}
	below := subject(t, h, h.Roles["below"])
	v := fixtureRegistry(t, h, func(c *Config) { c.Policy = cgroup.Caller })
	if m, _ := oracle(t, render(t, v, "meminfo", below), render(t, v, "stat", below)); *m.MemTotal != 256<<10 {
		t.Errorf("caller's own group without a controller: %d kB, its parent's limit is 262144", *m.MemTotal)
	}
	shared := subject(t, h, h.Roles["shared"])
	for policy, want := range map[cgroup.Policy]uint64{cgroup.Init: 256 << 10, cgroup.Auto: 0} {
		v := fixtureRegistry(t, h, func(c *Config) { c.Policy = policy })
		m, _ := oracle(t, render(t, v, "meminfo", shared), render(t, v, "stat", shared))
		if policy == cgroup.Init && *m.MemTotal != want || policy == cgroup.Auto && *m.MemTotal == 256<<10 {
			t.Errorf("shared pid namespace, policy %v: %d kB", policy, *m.MemTotal)
		}
	}
}

func TestZswap(t *testing.T) {
	h := load(t, "backports-v2")
	stat := filepath.Join(h.Root, "sys/fs/cgroup/machine/ct1/memory.stat")
	text, err := os.ReadFile(stat)
	if err != nil {
		t.Fatal(err)
	}
	counted := bytes.Replace(text, []byte("\nzswap 0\nzswapped 0\n"), []byte("\nzswap 5242880\nzswapped 11534336\n"), 1)
	if bytes.Equal(counted, text) {
		t.Fatalf("%s has no zswap", stat)
	}
	if err := os.WriteFile(stat, counted, 0o644); err != nil {
		t.Fatal(err)
	}
	s := subject(t, h, h.Roles["child"])
	for off, want := range map[bool][2]uint64{false: {5 << 10, 11 << 10}, true: {0, 0}} {
		v := fixtureRegistry(t, h, func(c *Config) { c.NoZswap = off })
		m, _ := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
		if m.Zswap == nil || m.Zswapped == nil || [2]uint64{*m.Zswap, *m.Zswapped} != want {
			t.Errorf("NoZswap %t: %v, %v, want %v", off, m.Zswap, m.Zswapped, want)
		}
	}
}

// TestUsageAboveTheLimit guards against wrap-around: a limit can be lowered below
// the usage.
func TestUsageAboveTheLimit(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	dir := filepath.Join(h.Root, "sys/fs/cgroup/machine/ct1")
	for name, text := range map[string]string{"memory.max": "4096\n", "memory.swap.max": "0\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, _ := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
	if *m.MemTotal != 4 || *m.MemFree != 0 || *m.MemAvailable > 4 || *m.SwapTotal != 0 || *m.SwapFree != 0 {
		t.Errorf("total %d free %d available %d swap %d of %d", *m.MemTotal, *m.MemFree, *m.MemAvailable, *m.SwapFree, *m.SwapTotal)
	}
}

func TestRemovedGroupIsTheHostsFile(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	// the decision is made, and then the directory goes before its files are opened
	if err := os.RemoveAll(filepath.Join(h.Root, "sys/fs/cgroup/machine")); err != nil {
		t.Fatal(err)
	}
	if got := render(t, v, "meminfo", s); !bytes.Equal(got, h.Read(t, "proc/meminfo")) {
		t.Errorf("not the host's meminfo:\n%s", got)
	}
	if v.Stats()["meminfo/removed-cgroup"] != 1 {
		t.Errorf("%v", v.Stats())
	}
}

func TestHugePagesAreTheGroupsWhereItLimits(t *testing.T) {
	for name, files := range map[string][2]string{
		"trixie-v2":   {"sys/fs/cgroup/machine/ct1/hugetlb.2MB.max", "sys/fs/cgroup/machine/ct1/hugetlb.2MB.current"},
		"bullseye-v1": {"sys/fs/cgroup/hugetlb/machine/ct1/hugetlb.2MB.limit_in_bytes", "sys/fs/cgroup/hugetlb/machine/ct1/hugetlb.2MB.usage_in_bytes"},
	} {
		h := load(t, name)
		for path, text := range map[string]string{
			"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":    "16\n",
			"sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
			files[0]: "8388608\n",
			files[1]: "2097152\n",
		} {
			path = filepath.Join(h.Root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		v := fixtureRegistry(t, h, nil)
		s := subject(t, h, h.Roles["child"])
		m, _ := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
		if *m.HugePagesTotal != 4 || *m.HugePagesFree != 3 || *m.HugePagesRsvd != 0 {
			t.Errorf("%s: %d huge pages, %d free, %d reserved", name, *m.HugePagesTotal, *m.HugePagesFree, *m.HugePagesRsvd)
		}
		if text := render(t, v, "meminfo", s); !bytes.Contains(text, []byte("\nHugetlb:            8192 kB\n")) {
			t.Errorf("%s: no 8192 kB in\n%s", name, text)
		}
	}
}

// blockFunc is a Turn that calls a function when it blocks.
type blockFunc func(owner uint64) error

func (f blockFunc) Block(owner uint64) error { return f(owner) }
func (f blockFunc) SetOwner(uint64)          {}

func (blockFunc) Delay(uint64, time.Duration) error { return nil }

// TestNewNamespaceCostsTheReaderOneLookUp: whose it is takes several system calls, so
// it is asked after the turn has blocked.
func TestNewNamespaceCostsTheReaderOneLookUp(t *testing.T) {
	h := load(t, "dev-hybrid")
	r := fixtureRegistry(t, h, nil)
	pid := pidOf(t, r, subject(t, h, h.Roles["child"]))
	inits := r.inits.(*fakeInits)
	inits.resolve = func(int) error { return nil }
	blocked := false
	c, err := r.Acquire(pid, blockFunc(func(owner uint64) error {
		if !blocked && (inits.asked != 0 || owner != 0) {
			t.Errorf("before the turn blocked its owner %d was asked for %d times", owner, inits.asked)
		}
		blocked = true
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	if !blocked {
		t.Error("the turn did not block")
	}
}
