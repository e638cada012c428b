// SPDX-License-Identifier: Apache-2.0

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

	"vprocfs/initpid"
	"vprocfs/procvirt/cgroup"
)

// What is kept of containers from read to read, and how it goes.

func TestFilesStayBounded(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, func(c *Config) { c.MaxFiles = 40 })
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
		v.drop(ns)
	}
	if n := v.OpenFiles(); n != host {
		t.Errorf("%d files open after all containers are gone, want the host's %d", n, host)
	}
}

// TestReadersNeverSeeWhatOthersTakeAway is for the race detector: containers are read
// while they are forgotten, and while their files are closed for want of room.
func TestReadersNeverSeeWhatOthersTakeAway(t *testing.T) {
	h := load(t, "dev-hybrid")
	v := fixtureRegistry(t, h, func(c *Config) { c.MaxFiles = 60 })
	base := subject(t, h, h.Roles["child"])
	want := render(t, v, "meminfo", base)
	files := v.Files()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := *base
			var dst []byte
			for n := range 300 {
				s.NS = uint64(n % 3)
				f := files[n%len(files)]
				var err error
				if dst, err = appendFile(v, dst[:0], f, pidOf(t, v, &s), &fakeTurn{}); err != nil {
					t.Error(err)
				}
				if f.String() == "meminfo" && err == nil && !bytes.Equal(dst, want) {
					t.Errorf("meminfo differs:\n%s", dst)
				}
				sp := v.known(&initpid.Init{PID: s.Init, NS: s.NS})
				switch {
				case sp == nil:
				case i == 0 && n%7 == 0:
					v.evictSpace(sp)
				case i == 1 && n%5 == 0:
					v.release(s.NS)
				case i == 2 && n%5 == 0:
					sp.reconsider(string(s.Groups))
				}
			}
		})
	}
	wg.Wait()
	if len(v.Stats()) != 0 {
		t.Errorf("%v", v.Stats())
	}
	for _, sp := range v.spaces {
		for _, c := range sp.containers {
			if n := c.users.Load(); n != 0 {
				t.Errorf("%d requests hold a container in the end", n)
			}
		}
	}
}

func TestOnlyAColdContainerBlocks(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	for _, name := range []string{"uptime", "meminfo"} { // each needs files of its own
		if !blocks(t, v, name, s) {
			t.Errorf("%s of a container that was not seen before does not block", name)
		}
		if blocks(t, v, name, s) {
			t.Errorf("%s blocks again", name)
		}
	}
	v.drop(s.NS)
	if !blocks(t, v, "uptime", s) {
		t.Error("does not block after the namespace was dropped")
	}
}

// TestARefusedTurnIsAnError guards callers whose share is used up: they must not get
// the host's numbers.
func TestARefusedTurnIsAnError(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	refusing := &fakeTurn{refuse: errRefused}
	for _, name := range []string{"uptime", "meminfo"} {
		got, err := appendFile(v, []byte("x"), fileNamed(t, v, name), pidOf(t, v, s), refusing)
		if err != errRefused || string(got) != "x" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		render(t, v, "uptime", s) // now the container is known
	}
	if len(v.Stats()) != 0 {
		t.Errorf("counted: %v", v.Stats())
	}
}

func TestSlowGroupsBlock(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	v.slowAfter = 0
	render(t, v, "meminfo", s)
	if blocks(t, v, "meminfo", s) {
		t.Error("blocks after it was slow once, which is no more than chance")
	}
	v.slowAfter = time.Hour
	if !blocks(t, v, "meminfo", s) {
		t.Error("does not block after it was slow twice")
	}
	if blocks(t, v, "meminfo", s) {
		t.Error("blocks after it was quick again")
	}
}

func TestSlowFilesOfTheHostBlock(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	v.slowAfter = 0
	cpuinfo := fileNamed(t, v, "cpuinfo")
	for i, want := range []int{0, 0, 1} { // once is no more than chance
		var turn fakeTurn
		if text, err := v.AppendHost(nil, cpuinfo, Invisible, &turn); err != nil || len(text) == 0 {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		if turn.blocked != want {
			t.Errorf("read %d blocks %d times, want %d", i, turn.blocked, want)
		}
	}
	if n := v.Stats()["cpuinfo/caller-invisible"]; n != 3 {
		t.Errorf("counted %d times, want 3", n)
	}
}

// TestAnInitThatMovesTakesItsContainerAlong guards the decision that is kept
// while the caller's own group stays the same.
func TestAnInitThatMovesTakesItsContainerAlong(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
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
	v := fixtureRegistry(t, h, func(c *Config) { c.Now = func() int64 { return now } })
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
	now += int64(lookAgain) + 1
	m, _ := oracle(t, render(t, v, "meminfo", s), render(t, v, "stat", s))
	if *m.MemTotal != 64<<10 || *m.MemFree != 64<<10-4 {
		t.Errorf("a second later: MemTotal %d kB, MemFree %d", *m.MemTotal, *m.MemFree)
	}
}

func TestCallersThatMoveAroundAreBounded(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, func(c *Config) { c.Policy = cgroup.Caller })
	s := *subject(t, h, h.Roles["child"])
	for i := range 5 * maxCallers {
		sub := fmt.Sprintf("machine/ct1/%d", i)
		if err := os.Mkdir(filepath.Join(h.Root, "sys/fs/cgroup", sub), 0o755); err != nil {
			t.Fatal(err)
		}
		s.Groups = []byte("0::/" + sub + "\n")
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
	v := fixtureRegistry(t, h, func(c *Config) { c.Now = func() int64 { return now } })
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
		t.Errorf("meminfo became\n%s%v", got, v.Stats())
	}
}

// TestReleasedContainersGoOn guards counters when there is no room for all.
func TestReleasedContainersGoOn(t *testing.T) {
	h := load(t, "trixie-v2")
	now := h.Boottime
	v := fixtureRegistry(t, h, func(c *Config) { c.Now = func() int64 { return now } })
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
	v.release(s.NS)
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
	v := fixtureRegistry(t, h, func(c *Config) { c.Policy = cgroup.Caller })
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
		if n := v.OpenFiles(); n > 500+20+len(v.files) {
			t.Fatalf("%d files are open after %d groups", n, i+1)
		}
	}
	s.Groups = []byte("0::/machine" + strings.Repeat("/d", 100) + "\n")
	render(t, v, "meminfo", &s)
	if v.Stats()["meminfo/deep-cgroup"] != 1 {
		t.Errorf("%v", v.Stats())
	}
}

// TestAnotherNamespaceWithTheSameNumberIsAnother guards inode numbers that the
// kernel uses again.
func TestAnotherNamespaceWithTheSameNumberIsAnother(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := *subject(t, h, h.Roles["child"])
	render(t, v, "stat", &s)
	s.ID = 7
	if !blocks(t, v, "stat", &s) {
		t.Error("known already")
	}
}

// TestAFileThatTheHostLacksIsNotThere guards kernels that are built without swap,
// block devices or slabinfo.
func TestAFileThatTheHostLacksIsNotThere(t *testing.T) {
	h := load(t, "trixie-v2")
	gone := map[string]bool{"swaps": true, "diskstats": true, "slabinfo": true}
	v := fixtureRegistry(t, h, func(*Config) {
		for f := range gone {
			if err := os.Remove(filepath.Join(h.Root, "proc", f)); err != nil {
				t.Fatal(err)
			}
		}
	})
	root := &Subject{NS: 1, Init: 1, Host: true, Groups: []byte("0::/\n")}
	for _, f := range v.Files() {
		dst, err := appendFile(v, []byte("x"), f, pidOf(t, v, root), &fakeTurn{})
		if gone[f.String()] && (!errors.Is(err, unix.ENOENT) || string(dst) != "x") || !gone[f.String()] && err != nil {
			t.Errorf("%v: %q, %v", f, dst, err)
		}
	}
	// the head of slabinfo is the same on every host
	child := subject(t, h, h.Roles["child"])
	if got := string(render(t, v, "slabinfo", child)); got != slabinfoHeader {
		t.Errorf("slabinfo of a container: %q", got)
	}
	if _, err := appendFile(v, nil, fileNamed(t, v, "swaps"), pidOf(t, v, child), &fakeTurn{}); !errors.Is(err, unix.ENOENT) {
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
	v := fixtureRegistry(t, h, nil)
	if got := string(render(t, v, "slabinfo", subject(t, h, h.Roles["child"]))); got != slabinfoHeader {
		t.Errorf("slabinfo of a container: %q", got)
	}
	root := &Subject{NS: 1, Init: 1, Host: true, Groups: []byte("0::/\n")}
	if got := render(t, v, "slabinfo", root); !bytes.Equal(got, h.Read(t, "proc/slabinfo")) {
		t.Errorf("slabinfo of the host: %q", got)
	}
}

// TestACallerThatComesOnceIsNotKept guards descriptors, also if the first request finds
// a container that was not seen before.
func TestACallerThatComesOnceIsNotKept(t *testing.T) {
	h := load(t, "trixie-v2")
	v := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	pid := pidOf(t, v, s)
	for i, want := range []bool{false, true} {
		render(t, v, "uptime", s)
		if _, _, ok := v.callers.Read(pid, nil); ok != want {
			t.Errorf("after %d requests: kept %t", i+1, ok)
		}
	}
}
