package procvirt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
)

// What is kept of containers from read to read, and how it goes.

func TestFilesStayBounded(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, func(c *Config) { c.MaxFiles = 40 })
	host := v.OpenFiles()
	base := subject(t, h, h.Roles["child"])
	for ns := range uint64(50) {
		s := *base
		s.NS = ns
		for _, f := range v.Files() {
			renderFile(t, v, f, &s)
		}
		// one container's files are above the bound at most, and the inits' stay
		if n := v.OpenFiles() - int(ns) - 1; n > 40+20 {
			t.Fatalf("%d files open after %d containers", n, ns+1)
		}
	}
	for ns := range uint64(50) {
		v.Drop(ns)
	}
	if n := v.OpenFiles(); n != host {
		t.Errorf("%d files open after all containers are gone, want the host's %d", n, host)
	}
}

// TestReadersAndDropsTogether is for the race detector: readers of some
// containers while these come and go.
func TestReadersAndDropsTogether(t *testing.T) {
	h := load(t, "dev-hybrid")
	v := fixtureViews(t, h, nil)
	base := subject(t, h, h.Roles["child"])
	want := render(t, v, "meminfo", base)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := *base
			var dst []byte
			for n := range 300 {
				s.NS = uint64(n % 3)
				f := &v.files[n%len(v.files)]
				var err error
				dst, err = v.Append(dst[:0], f, &s, n%2 == 0)
				if err != nil && !errors.Is(err, ErrCold) {
					t.Error(err)
				}
				if f.String() == "meminfo" && err == nil && !bytes.Equal(dst, want) {
					t.Errorf("meminfo differs:\n%s", dst)
				}
				if i == 0 && n%7 == 0 {
					v.Drop(uint64(n % 3))
				}
			}
		})
	}
	wg.Wait()
}

func TestColdContainerIsNotOpenedWithoutWaiting(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	dst := []byte("x")
	if got, err := v.Append(dst, fileNamed(t, v, "uptime"), s, false); err != ErrCold || string(got) != "x" {
		t.Fatalf("%q, %v", got, err)
	}
	if got, err := v.Append(dst, fileNamed(t, v, "uptime"), s, true); err != nil || len(got) < 10 {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := v.Append(dst, fileNamed(t, v, "uptime"), s, false); err != nil {
		t.Fatal(err)
	}
	v.Drop(s.NS)
	if _, err := v.Append(dst, fileNamed(t, v, "uptime"), s, false); err != ErrCold {
		t.Fatalf("after Drop: %v", err)
	}
}

func TestSlowGroupsAreReadOnlyWithWaiting(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	v.slowAfter = 0
	render(t, v, "meminfo", s)
	if _, err := v.Append(nil, fileNamed(t, v, "meminfo"), s, false); err != nil {
		t.Fatalf("once is no more than chance: %v", err)
	}
	v.slowAfter = time.Hour
	if _, err := v.Append(nil, fileNamed(t, v, "meminfo"), s, false); err != ErrCold {
		t.Fatalf("slow: %v", err)
	}
	if _, err := v.Append(nil, fileNamed(t, v, "meminfo"), s, true); err != nil {
		t.Fatalf("slow, with waiting: %v", err)
	}
	if _, err := v.Append(nil, fileNamed(t, v, "meminfo"), s, false); err != nil {
		t.Errorf("quick again: %v", err)
	}
}

func TestSlowFilesOfTheHostAreReadOnlyWithWaiting(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, nil)
	v.slowAfter = 0
	for range 2 { // once is no more than chance
		if _, err := v.AppendHost(nil, fileNamed(t, v, "cpuinfo"), Invisible, nil, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.AppendHost(nil, fileNamed(t, v, "cpuinfo"), Invisible, nil, false); err != ErrCold {
		t.Fatalf("slow: %v", err)
	}
	if text, err := v.AppendHost(nil, fileNamed(t, v, "cpuinfo"), Invisible, nil, true); err != nil || len(text) == 0 {
		t.Fatalf("slow, with waiting: %d bytes, %v", len(text), err)
	}
	if n := v.Fallbacks()["cpuinfo/caller-invisible"]; n != 3 {
		t.Errorf("counted %d times, want 3", n)
	}
}

// TestAnInitThatMovesTakesItsContainerAlong guards the decision that is kept
// while the caller's own group stays the same.
func TestAnInitThatMovesTakesItsContainerAlong(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, nil)
	below := subject(t, h, h.Roles["below"])
	total := func() uint64 {
		m, _ := oracle(t, render(t, v, "meminfo", below), render(t, v, "stat", below))
		return *m.MemTotal
	}
	if got := total(); got != 256<<10 {
		t.Fatalf("MemTotal %d kB", got)
	}
	if err := os.WriteFile(filepath.Join(h.Root, fmt.Sprintf("proc/%d/cgroup", h.Init)), []byte("0::/machine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := total(); got != 512<<10 {
		t.Errorf("after the init moved up: MemTotal %d kB", got)
	}
}

// TestAControllerEnabledLaterShows guards files that were not there at first.
func TestAControllerEnabledLaterShows(t *testing.T) {
	h := load(t, "trixie-v2-nomem")
	now := h.Boottime
	v := fixtureViews(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	s := subject(t, h, h.Roles["child"])
	before := render(t, v, "meminfo", s)
	path := strings.TrimSpace(strings.TrimPrefix(string(h.Read(t, fmt.Sprintf("proc/%d/cgroup", h.Init))), "0::"))
	dir := filepath.Join(h.Root, "sys/fs/cgroup", path)
	for name, text := range map[string]string{"memory.max": "67108864\n", "memory.current": "4096\n", "memory.stat": "anon 4096\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if again := render(t, v, "meminfo", s); !bytes.Equal(before, again) {
		t.Errorf("changed within the second:\n%s", again)
	}
	now += int64(incompleteRecheck) + 1
	m, _ := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
	if *m.MemTotal != 64<<10 || *m.MemFree != 64<<10-4 {
		t.Errorf("a second later: MemTotal %d kB, MemFree %d", *m.MemTotal, *m.MemFree)
	}
}

func TestCallersThatMoveAroundAreBounded(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, func(c *Config) { c.Policy = cgroup.Caller })
	s := *subject(t, h, h.Roles["child"])
	for i := range 5 * maxCallers {
		s.Groups = []byte(fmt.Sprintf("0::/machine/ct1/%d\n", i))
		render(t, v, "uptime", &s)
	}
	sp := v.spaces[s.NS]
	if len(sp.callers) > maxCallers || len(sp.containers) > maxCallers+1 {
		t.Errorf("%d decisions and %d containers are kept", len(sp.callers), len(sp.containers))
	}
}

// TestAnInitWhoseFirstThreadExitsLater guards the file that is kept of the init:
// it can still be read, but its v1 lines say "/" from then on.
func TestAnInitWhoseFirstThreadExitsLater(t *testing.T) {
	h := load(t, "dev-hybrid")
	now := h.Boottime
	v := fixtureViews(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	s := subject(t, h, h.Roles["child"])
	want := render(t, v, "meminfo", s)
	proc := filepath.Join(h.Root, "proc", fmt.Sprint(h.Init))
	groups := h.Read(t, fmt.Sprintf("proc/%d/cgroup", h.Init))
	stat := h.Read(t, fmt.Sprintf("proc/%d/stat", h.Init))
	var root bytes.Buffer
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(line, ":", 3)
		fmt.Fprintf(&root, "%s:%s:/\n", f[0], f[1])
	}
	dead := bytes.Replace(stat, []byte(") S "), []byte(") Z "), 1)
	const tid = "99999"
	for path, text := range map[string][]byte{
		proc + "/cgroup": root.Bytes(), proc + "/stat": dead,
		proc + "/task/" + tid + "/cgroup":          groups,
		filepath.Join(h.Root, "proc", tid, "stat"): stat,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	now += int64(v.cfg.Recheck) + 1
	if got := render(t, v, "meminfo", s); !bytes.Equal(got, want) {
		t.Errorf("meminfo became\n%s%v", got, v.Fallbacks())
	}
}

// TestReleasedContainersGoOn guards counters when there is no room for all.
func TestReleasedContainersGoOn(t *testing.T) {
	h := load(t, "trixie-v2")
	now := h.Boottime
	v := fixtureViews(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	host := v.OpenFiles()
	s := subject(t, h, h.Roles["child"])
	render(t, v, "stat", s)
	render(t, v, "meminfo", s)
	// one of its two CPUs leaves: the sum keeps what it had
	set := filepath.Join(h.Root, "sys/fs/cgroup/machine/ct1/cpuset.cpus.effective")
	if err := os.WriteFile(set, []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, before := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
	v.Release(s.NS)
	if n := v.OpenFiles(); n != host {
		t.Errorf("%d files are open, want the host's %d", n, host)
	}
	_, after := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
	if after.CPUTotal != before.CPUTotal {
		t.Errorf("the sum was %+v and is %+v", before.CPUTotal, after.CPUTotal)
	}
}

// TestGroupsOfOneNamespaceDoNotTakeAllFiles guards the daemon's descriptors from
// who makes groups for itself.
func TestGroupsOfOneNamespaceDoNotTakeAllFiles(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, func(c *Config) { c.Policy = cgroup.Caller })
	s := *subject(t, h, h.Roles["child"])
	dir := filepath.Join(h.Root, "sys/fs/cgroup/machine/ct1")
	for i := range 60 {
		sub := fmt.Sprint(i)
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, sub, "cpu.stat"), []byte("usage_usec 1\nuser_usec 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s.Groups = []byte("0::/machine/ct1/" + sub + "\n")
		for _, f := range v.Files() {
			renderFile(t, v, f, &s)
		}
		if n := v.OpenFiles(); n > 20*(maxOpen+1) {
			t.Fatalf("%d files are open after %d groups", n, i+1)
		}
	}
	s.Groups = []byte("0::/machine" + strings.Repeat("/d", 100) + "\n")
	render(t, v, "meminfo", &s)
	if v.Fallbacks()["meminfo/deep-cgroup"] != 1 {
		t.Errorf("%v", v.Fallbacks())
	}
}

// TestAnotherNamespaceWithTheSameNumberIsAnother guards inode numbers that the
// kernel uses again.
func TestAnotherNamespaceWithTheSameNumberIsAnother(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureViews(t, h, nil)
	s := *subject(t, h, h.Roles["child"])
	render(t, v, "stat", &s)
	s.ID = 7
	if _, err := v.Append(nil, fileNamed(t, v, "stat"), &s, false); err != ErrCold {
		t.Errorf("known already: %v", err)
	}
}

// TestAFileThatTheHostLacksIsNotThere guards kernels that are built without swap,
// block devices or slabinfo.
func TestAFileThatTheHostLacksIsNotThere(t *testing.T) {
	h := load(t, "trixie-v2")
	gone := map[string]bool{"swaps": true, "diskstats": true, "slabinfo": true}
	v := fixtureViews(t, h, func(*Config) {
		for f := range gone {
			if err := os.Remove(filepath.Join(h.Root, "proc", f)); err != nil {
				t.Fatal(err)
			}
		}
	})
	root := &Subject{NS: 1, Init: 1, Host: true, Groups: []byte("0::/\n")}
	for _, f := range v.Files() {
		dst, err := v.Append([]byte("x"), f, root, true)
		if gone[f.String()] && (!errors.Is(err, unix.ENOENT) || string(dst) != "x") || !gone[f.String()] && err != nil {
			t.Errorf("%v: %q, %v", f, dst, err)
		}
	}
	// the head of slabinfo is the same on every host
	child := subject(t, h, h.Roles["child"])
	if got := string(render(t, v, "slabinfo", child)); got != slabinfoHeader {
		t.Errorf("slabinfo of a container: %q", got)
	}
	if _, err := v.Append(nil, fileNamed(t, v, "swaps"), child, true); !errors.Is(err, unix.ENOENT) {
		t.Errorf("swaps of a container: %v", err)
	}
}

// TestSlabinfoOfAContainerWithoutAMemoryController guards hosts that are booted
// with cgroup_disable=memory.
func TestSlabinfoOfAContainerWithoutAMemoryController(t *testing.T) {
	h := load(t, "trixie-v2")
	if err := os.WriteFile(filepath.Join(h.Root, "sys/fs/cgroup/cgroup.controllers"), []byte("cpuset cpu io\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	v := fixtureViews(t, h, nil)
	if got := string(render(t, v, "slabinfo", subject(t, h, h.Roles["child"]))); got != slabinfoHeader {
		t.Errorf("slabinfo of a container: %q", got)
	}
	root := &Subject{NS: 1, Init: 1, Host: true, Groups: []byte("0::/\n")}
	if got := render(t, v, "slabinfo", root); !bytes.Equal(got, h.Read(t, "proc/slabinfo")) {
		t.Errorf("slabinfo of the host: %q", got)
	}
}

// TestAGroupMadeAnewUnderALivingContainer guards its counters: those of the new
// group begin at 0.
func TestAGroupMadeAnewUnderALivingContainer(t *testing.T) {
	h := load(t, "trixie-v2")
	now := h.Boottime
	v := fixtureViews(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	s := subject(t, h, h.Roles["child"])
	busy := func() float64 {
		_, st := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
		return st.CPUTotal.User + st.CPUTotal.Nice + st.CPUTotal.System
	}
	before := busy()
	stat := filepath.Join(h.Root, "sys/fs/cgroup/machine/ct1/cpu.stat")
	if err := os.WriteFile(stat, []byte("usage_usec 2000000\nuser_usec 2000000\nsystem_usec 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// what a read that ends in ENODEV leads to
	if err := v.prepare(fileNamed(t, v, "stat"), s, true); err != nil {
		t.Fatal(err)
	}
	now += 10 * int64(time.Second)
	if got := busy(); got < before+1.98 || got > before+2.02 {
		t.Errorf("busy %.2f s, want 2 s more than %.2f", got, before)
	}
}
