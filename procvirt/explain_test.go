// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

func explain(t *testing.T, r *Registry, s *Subject) *Explanation {
	t.Helper()
	e, err := r.Explain(pidOf(t, r, s))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// numberOf returns what e says of a number of a file.
func numberOf(t *testing.T, e *Explanation, file, number string) NumberExplanation {
	t.Helper()
	for _, f := range e.Files {
		for _, n := range f.Numbers {
			if f.Name == file && n.Name == number {
				return n
			}
		}
	}
	t.Fatalf("nothing is said of %s in %s", number, file)
	return NumberExplanation{}
}

// limiting returns the source that limits a number, and fails unless there is just one.
func limiting(t *testing.T, n NumberExplanation) SourceExplanation {
	t.Helper()
	var all []SourceExplanation
	for _, s := range n.From {
		if s.Limits {
			all = append(all, s)
		}
	}
	if len(all) != 1 {
		t.Fatalf("%s: %d sources limit: %+v", n.Name, len(all), n.From)
	}
	return all[0]
}

// TestExplainSaysWhereEachNumberComesFrom, and what it says limits has the value that is
// shown.
func TestExplainSaysWhereEachNumberComesFrom(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		for _, role := range []string{"child", "host", "below"} {
			r := fixtureRegistry(t, h, nil)
			s := subject(t, h, h.Roles[role])
			e := explain(t, r, s)
			if len(e.Files) != len(r.Files()) {
				t.Errorf("%s, %s: %d files", h.Name, role, len(e.Files))
			}
			for _, f := range e.Files {
				hosts := bytes.Equal(render(t, r, f.Name, s), h.Read(t, fileNamed(t, r, f.Name).Path))
				if f.Host != "" && (!hosts || len(f.Numbers) > 0) || f.Host == "" && len(f.Numbers) == 0 {
					t.Errorf("%s, %s: %s is the host's %t: %+v", h.Name, role, f.Name, hosts, f)
				}
				for _, n := range f.Numbers {
					if len(n.From) == 0 || n.From[0].File == "" {
						t.Errorf("%s, %s: %s of %s comes from nowhere", h.Name, role, n.Name, f.Name)
					}
				}
			}
			if role == "host" {
				continue
			}
			cpus := numberOf(t, e, "cpu/online", "CPUs")
			limiting(t, cpus)
			if got := string(render(t, r, "cpu/online", s)); got != cpus.Value+"\n" {
				t.Errorf("%s, %s: CPUs %q, explained as %q", h.Name, role, got, cpus.Value)
			}
			if e.Files[slices.IndexFunc(e.Files, func(f FileExplanation) bool { return f.Name == "meminfo" })].Host != "" {
				continue // no controller
			}
			for _, name := range []string{"MemTotal", "SwapTotal"} {
				n := numberOf(t, e, "meminfo", name)
				if name == "SwapTotal" && e.Controllers[cgroup.Memory].Version == 1 && n.Value != "0 kB" {
					continue
				}
				if got, want := limitOf(limiting(t, n).Value)>>10, limitOf(n.Value)>>10; got != want {
					t.Errorf("%s, %s: %s is %d kB, and %d kB limits", h.Name, role, name, want, got)
				}
			}
		}
	}
}

// TestExplainNamesTheLevelThatLimits, and the container's own limit beside it.
func TestExplainNamesTheLevelThatLimits(t *testing.T) {
	h := load(t, "bookworm-v2")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	writeGroup(t, r, s, cgroup.Memory, "memory.max", "max")
	n := numberOf(t, explain(t, r, s), "meminfo", "MemTotal")
	limit, own := limiting(t, n), n.From[0]
	if !own.Own || own.Value != "max" || limit.Own || limit.File != "memory.max" || !strings.HasPrefix(own.Group, limit.Group+"/") {
		t.Errorf("MemTotal %s comes from %+v", n.Value, n.From)
	}
	writeGroup(t, r, s, cgroup.Memory, "memory.max", "4096000")
	if n := numberOf(t, explain(t, r, s), "meminfo", "MemTotal"); n.Value != "4000 kB" || !limiting(t, n).Own {
		t.Errorf("MemTotal %s comes from %+v", n.Value, n.From)
	}
}

// TestExplainNamesTheWordsThatApply to a file, and who has them.
func TestExplainNamesTheWordsThatApply(t *testing.T) {
	h := load(t, "bookworm-v2")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	dirs := policyDirs(t, r, s)
	setPolicy(t, dirs[1], "swap=off loadavg=host colour=blue")
	setPolicy(t, dirs[0], "cpu=request files=meminfo,stat,loadavg")
	e := explain(t, r, s)
	if fmt.Sprint(e.Unknown) != "[colour=blue]" || len(e.Policy) != 4 {
		t.Errorf("policy %v, unknown %v", e.Policy, e.Unknown)
	}
	files := PolicyWord{"files", "meminfo,stat,loadavg", dirs[0]}
	want := map[string][]PolicyWord{
		"meminfo": {{"swap", "off", dirs[1]}, files},
		"stat":    {{"cpu", "request", dirs[0]}, {"loadavg", "host", dirs[1]}, files},
		"loadavg": {{"loadavg", "host", dirs[1]}, files},
		"uptime":  {{"cpu", "request", dirs[0]}, files},
	}
	for _, f := range e.Files {
		if w, ok := want[f.Name]; ok && !slices.Equal(f.Policy, w) {
			t.Errorf("%s: %v, want %v", f.Name, f.Policy, w)
		}
		if off := f.Name != "meminfo" && f.Name != "stat"; off != (f.Host == "policy") {
			t.Errorf("%s: the host's: %q", f.Name, f.Host)
		}
	}
	if from := numberOf(t, e, "meminfo", "SwapTotal").From; from[0].File != "swap=off of the policy" {
		t.Errorf("SwapTotal comes from %+v", from)
	}
}

// TestExplainNamesTheMemoryNodes, and that they limit MemTotal if they do.
func TestExplainNamesTheMemoryNodes(t *testing.T) {
	h := fourNodes(t, "bookworm-v2", "3")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	for _, dir := range policyDirs(t, r, s) {
		if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte("max\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := explain(t, r, s)
	for _, file := range []string{"node/online", "node/has_memory"} {
		n := numberOf(t, e, file, "nodes in both")
		if len(n.From) != 2 || n.Value != "3" || n.From[0].Value != "0-3" || n.From[1].Value != "3" || !n.From[1].Own {
			t.Errorf("%s: %+v", file, n)
		}
	}
	n := numberOf(t, e, "meminfo", "MemTotal")
	if limit := limiting(t, n); n.Value != "262144 kB" || limit.Value != "268435456" || limit.Group == "" {
		t.Errorf("MemTotal: %+v", n)
	}
}

// TestExplainNamesTheSourcesOfEachNode that the container sees.
func TestExplainNamesTheSourcesOfEachNode(t *testing.T) {
	for _, name := range []string{"bookworm-v2", "bookworm-hybrid"} {
		h := fourNodes(t, name, "2-3")
		r := fixtureRegistry(t, h, nil)
		e := explain(t, r, subject(t, h, h.Roles["child"]))
		for node := range 4 {
			seen := slices.ContainsFunc(e.Files, func(f FileExplanation) bool { return f.Name == fmt.Sprintf("node/node%d/cpulist", node) })
			if seen != (node >= 2) {
				t.Errorf("%s: node %d is explained: %t", name, node, seen)
			}
		}
		total := numberOf(t, e, "node/node3/meminfo", "MemTotal")
		half := limitOf(numberOf(t, e, "meminfo", "MemTotal").Value) / 2
		if limitOf(total.Value) != half || total.From[1].Value != "262144 kB" || total.From[1].File != "/sys/devices/system/node/node3/meminfo" {
			t.Errorf("%s: MemTotal of node 3: %+v, want half of meminfo's, %d bytes", name, total, half)
		}
		if from := numberOf(t, e, "node/node3/meminfo", "FilePages, AnonPages, ...").From; from[0].File != "memory.numa_stat" || from[0].Key != "N3=" || !from[0].Own {
			t.Errorf("%s: FilePages: %+v", name, from)
		}
		if n := numberOf(t, e, "node/node3/cpulist", "CPUs of the node that are visible"); n.From[0].Value != "3" {
			t.Errorf("%s: cpulist: %+v", name, n)
		}
		numberOf(t, e, "node/node2/cpumap", "CPUs")
		numberOf(t, e, "node/node2/numastat", "all")
	}
}
