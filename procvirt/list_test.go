// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

// TestListHasWhatTheContainerIsShown, and listing counts as no read of it.
func TestListHasWhatTheContainerIsShown(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		r := fixtureRegistry(t, h, nil)
		if got := r.List(); len(got) != 0 {
			t.Errorf("%s: before the first read: %+v", h.Name, got)
		}
		s := subject(t, h, h.Roles["child"])
		var cpus cgroup.CPUs
		if err := cpus.Parse(render(t, r, "cpu/online", s)); err != nil {
			t.Fatal(err)
		}
		total := bytes.Fields(render(t, r, "meminfo", s))[1]
		render(t, r, "loadavg", s)
		stats := r.Snapshot()
		var before, after ContainerInfo
		for _, info := range []*ContainerInfo{&before, &after} {
			all := r.List()
			if len(all) != 1 {
				t.Fatalf("%s: %+v", h.Name, all)
			}
			*info = all[0]
		}
		if before.CPUs != cpus.Count() || strconv.FormatUint(before.Memory>>10, 10) != string(total) || before.Init != h.Init || before.Group == "" || before.Load == "" || before.Uptime == 0 {
			t.Errorf("%s: %+v, want %d CPUs and %s kB", h.Name, before, cpus.Count(), total)
		}
		if before.Reads != 3 || after.Reads != 3 || before.Fallbacks != 0 {
			t.Errorf("%s: %d reads, then %d, and %d fallbacks", h.Name, before.Reads, after.Reads, before.Fallbacks)
		}
		if again := r.Snapshot(); again.ColdOpens != stats.ColdOpens || again.Containers != 1 {
			t.Errorf("%s: %+v", h.Name, again)
		}
		for _, sp := range r.spaces {
			if sp.isHeld() {
				t.Errorf("%s: the list holds a container", h.Name)
			}
		}
	}
}

// TestAContainersFallbacksAreItsOwn: those of another are not counted with them.
func TestAContainersFallbacksAreItsOwn(t *testing.T) {
	h := fixture.All(t, "testdata/host")[0]
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	render(t, r, "uptime", s)
	c, err := r.Acquire(pidOf(t, r, s), &fakeTurn{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.appendHost(nil, fileNamed(t, r, "uptime"), NoController, c); err != nil {
		t.Fatal(err)
	}
	c.Release()
	other := subject(t, h, h.Roles["child"])
	other.NS, other.Owner = 4026540001, 4026540001
	render(t, r, "uptime", other)
	want := map[uint64]uint64{s.NS: 1, other.NS: 0}
	all := r.List()
	for _, info := range all {
		if info.Fallbacks != want[info.Namespace] || info.Reads != 1 {
			t.Errorf("%+v", info)
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d containers", len(all))
	}
	if got := r.Snapshot().Fallbacks; len(got) != 1 || got[0] != (FallbackCount{"uptime", "no-controller", 1, false}) {
		t.Errorf("%+v", got)
	}
}

// TestAListIsShortWork: the numbers of the last second are not read again, and those who want
// counters alone read none.
func TestAListIsShortWork(t *testing.T) {
	h := load(t, "trixie-v2")
	now := h.Boottime
	r := fixtureRegistry(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	s := subject(t, h, h.Roles["child"])
	render(t, r, "uptime", s)
	if got := r.Counters(); len(got) != 1 || got[0].Memory != 0 || got[0].Reads != 1 || got[0].Group == "" || got[0].Uptime == 0 {
		t.Errorf("the counters: %+v", got)
	}
	first := r.List()[0]
	if first.Memory == 0 || first.CPUs == 0 {
		t.Fatalf("%+v", first)
	}
	p := r.owned(r.owners[s.NS])[0].hold()[0].places[cgroup.Memory]
	if err := os.WriteFile(filepath.Join(p.Dirs[0], "memory.max"), []byte("4096000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again := r.List()[0]; again.Memory != first.Memory {
		t.Errorf("at the same time: %d bytes, then %d", first.Memory, again.Memory)
	}
	now += int64(numbersFresh)
	if later := r.List()[0]; later.Memory != 4096000 {
		t.Errorf("a second later: %d bytes, want 4096000", later.Memory)
	}
}
