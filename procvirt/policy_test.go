// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

// policyDirs returns the directories that s's policy may be on, nearest first.
func policyDirs(t *testing.T, r *Registry, s *Subject) []string {
	t.Helper()
	dirs, err := r.PolicyDirs(pidOf(t, r, s))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// setPolicy makes text the policy on dir until the test ends.
func setPolicy(t *testing.T, dir, text string) {
	t.Helper()
	if err := cgroup.WritePolicy(dir, text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Removexattr(dir, cgroup.PolicyAttribute) })
}

// writeGroup writes a file of the group that s's controller is in.
func writeGroup(t *testing.T, r *Registry, s *Subject, ctl cgroup.Controller, file, text string) {
	t.Helper()
	c, err := r.Acquire(pidOf(t, r, s), patient{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if err := os.WriteFile(filepath.Join(c.places[ctl].Dirs[0], file), []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPolicyHoldsFromTheNextContentOn, on each kind of host, and ends with its removal.
func TestPolicyHoldsFromTheNextContentOn(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		r := fixtureRegistry(t, h, nil)
		s := subject(t, h, h.Roles["child"])
		dir := policyDirs(t, r, s)[0]
		for _, tt := range []struct {
			policy string
			hosts  []string // of these files
			others []string
		}{
			{"view=off", []string{"meminfo", "uptime", "cpu/online", "loadavg"}, nil},
			{"view=on", nil, []string{"uptime", "loadavg"}},
			{"loadavg=host", []string{"loadavg"}, []string{"uptime"}},
			{"files=uptime,cpu", []string{"meminfo", "loadavg", "stat"}, []string{"uptime"}},
			{"files=loadavg", []string{"uptime"}, []string{"loadavg"}},
		} {
			own := map[string][]byte{}
			for _, f := range slices.Concat(tt.hosts, tt.others) {
				own[f] = render(t, r, f, s)
			}
			setPolicy(t, dir, tt.policy)
			for _, f := range tt.hosts {
				want := h.Read(t, fileNamed(t, r, f).Path)
				if got := render(t, r, f, s); !bytes.Equal(got, want) || f != "cpu/online" && bytes.Equal(got, own[f]) {
					t.Errorf("%s, %s: %s is\n%s, want the host's\n%s", h.Name, tt.policy, f, got, want)
				}
			}
			for _, f := range tt.others {
				if got := render(t, r, f, s); !bytes.Equal(got, own[f]) {
					t.Errorf("%s, %s: %s is\n%s, want the container's\n%s", h.Name, tt.policy, f, got, own[f])
				}
			}
			setPolicy(t, dir, "")
			for f, want := range own {
				if got := render(t, r, f, s); !bytes.Equal(got, want) {
					t.Errorf("%s, after %s: %s is\n%s, want\n%s", h.Name, tt.policy, f, got, want)
				}
			}
		}
		if stats := r.Stats(); stats["meminfo/policy"] != 2 || stats["loadavg/policy"] != 3 || stats[UnknownWords] != 0 {
			t.Errorf("%s: %v", h.Name, stats)
		}
	}
}

// TestPolicyTakesPrecedenceOverOptions in both directions.
func TestPolicyTakesPrecedenceOverOptions(t *testing.T) {
	h := load(t, "bookworm-v2")
	s := subject(t, h, h.Roles["child"])
	stat := bytes.Replace(h.Read(t, "proc/stat"), hostsLine(t, h, "procs_running"), []byte("procs_running 77\n"), 1)
	if err := os.WriteFile(filepath.Join(h.Root, "proc/stat"), stat, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, options := range []bool{false, true} {
		r := fixtureRegistry(t, h, func(c *Config) { c.IgnoreQuota, c.NoSwap, c.HostLoad = options, options, options })
		dir := policyDirs(t, r, s)[0]
		writeGroup(t, r, s, cgroup.CPUSet, "cpuset.cpus.effective", "0-1")
		writeGroup(t, r, s, cgroup.CPU, "cpu.max", "50000 100000")
		for policy, off := range map[string]bool{
			"": options, "cpu=quota swap=on loadavg=on": false, "cpu=cpuset swap=off loadavg=host": true,
		} {
			setPolicy(t, dir, policy)
			want := map[bool]string{false: "0\n", true: "0-1\n"}[off]
			if got := string(render(t, r, "cpu/online", s)); got != want {
				t.Errorf("options %t, policy %q: CPUs %q, want %q", options, policy, got, want)
			}
			if got := bytes.Count(render(t, r, "swaps", s), []byte("virtual")) == 0; got != off {
				t.Errorf("options %t, policy %q: no swap %t, want %t", options, policy, got, off)
			}
			if got := bytes.Equal(render(t, r, "loadavg", s), h.Read(t, "proc/loadavg")); got != off {
				t.Errorf("options %t, policy %q: the host's load %t, want %t", options, policy, got, off)
			}
			if got := bytes.Contains(render(t, r, "stat", s), hostsLine(t, h, "procs_running")); got != off {
				t.Errorf("options %t, policy %q: the host's procs_running %t, want %t", options, policy, got, off)
			}
		}
	}
}

// hostsLine returns a line of the host's stat.
func hostsLine(t *testing.T, h *fixture.Host, key string) []byte {
	t.Helper()
	for line := range bytes.Lines(h.Read(t, "proc/stat")) {
		if bytes.HasPrefix(line, []byte(key)) {
			return line
		}
	}
	t.Fatalf("no %s", key)
	return nil
}

// TestNearestLevelWithAWordCounts, each word by itself.
func TestNearestLevelWithAWordCounts(t *testing.T) {
	h := load(t, "bookworm-v2")
	now := h.Boottime
	r := fixtureRegistry(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	s := subject(t, h, h.Roles["child"])
	dirs := policyDirs(t, r, s)
	if len(dirs) < 2 {
		t.Fatalf("levels: %q", dirs)
	}
	own := render(t, r, "meminfo", s)
	setPolicy(t, dirs[1], "view=off swap=off")
	if got := render(t, r, "meminfo", s); !bytes.Equal(got, own) {
		t.Errorf("the policy of the parent is read before its time:\n%s", got)
	}
	now += ancestorsAge
	if got := render(t, r, "meminfo", s); !bytes.Equal(got, h.Read(t, "proc/meminfo")) {
		t.Errorf("view=off of the parent does not hold:\n%s", got)
	}
	setPolicy(t, dirs[0], "view=on")
	if got := render(t, r, "meminfo", s); bytes.Equal(got, h.Read(t, "proc/meminfo")) || bytes.Equal(got, own) ||
		!bytes.Contains(got, []byte("\nSwapTotal:             0 kB\n")) {
		t.Errorf("view=on of the group and swap=off of its parent:\n%s", got)
	}
	words, _, err := r.Policy(dirs)
	want := []PolicyWord{{"view", "on", dirs[0]}, {"swap", "off", dirs[1]}}
	if err != nil || !slices.Equal(words, want) {
		t.Errorf("the policy is %v (%v), want %v", words, err, want)
	}
}

// TestPolicyRequestShowsTheRequestedCPUs of a container without a quota.
func TestPolicyRequestShowsTheRequestedCPUs(t *testing.T) {
	for name, weights := range map[string][]string{"bookworm-v2": {"cpu.weight", "138", "39", "1"}, "bullseye-v1": {"cpu.shares", "1536", "1024", "2"}} {
		h := load(t, name)
		r := fixtureRegistry(t, h, nil)
		s := subject(t, h, h.Roles["child"])
		unlimited, set := "cpu.max", "cpuset.cpus.effective"
		limited, none := "300000 100000", "max 100000"
		if name == "bullseye-v1" {
			unlimited, set, limited, none = "cpu.cfs_quota_us", "cpuset.effective_cpus", "300000", "-1"
		}
		writeGroup(t, r, s, cgroup.CPUSet, set, "2-5")
		for _, dir := range policyDirs(t, r, s) { // each level has a quota
			dir = strings.Replace(dir, "/memory/", "/cpu,cpuacct/", 1)
			if err := os.WriteFile(filepath.Join(dir, unlimited), []byte(none+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []string{"2-3\n", "2\n", "2\n"} {
			writeGroup(t, r, s, cgroup.CPU, weights[0], weights[i+1])
			setPolicy(t, policyDirs(t, r, s)[0], "cpu=request")
			if got := string(render(t, r, "cpu/online", s)); got != want {
				t.Errorf("%s: %s %s: CPUs %q, want %q", name, weights[0], weights[i+1], got, want)
			}
			if got := bytes.Count(render(t, r, "stat", s), []byte("\ncpu")); got != strings.Count(want, "-")+1 {
				t.Errorf("%s: %s %s: %d rows of stat", name, weights[0], weights[i+1], got)
			}
		}
		render(t, r, "loadavg", s)
		writeGroup(t, r, s, cgroup.CPU, unlimited, limited)
		if got := string(render(t, r, "cpu/online", s)); got != "2-4\n" {
			t.Errorf("%s: with a quota of 3: CPUs %q, want 2-4", name, got)
		}
	}
}

// TestUnknownWordsOfAPolicyAreCountedAndIgnored, and logged once for each container.
func TestUnknownWordsOfAPolicyAreCountedAndIgnored(t *testing.T) {
	h := load(t, "bookworm-v2")
	var log bytes.Buffer
	r := fixtureRegistry(t, h, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	s := subject(t, h, h.Roles["child"])
	dir := policyDirs(t, r, s)[0]
	own := render(t, r, "uptime", s)
	for i, policy := range []string{"colour=blue cpu=all view", "colour=red swap=off files=uptime,nothing"} {
		setPolicy(t, dir, policy)
		for range 3 {
			if got := render(t, r, "uptime", s); !bytes.Equal(got, own) {
				t.Errorf("%s: uptime is %q, want %q", policy, got, own)
			}
		}
		if got, want := r.Stats()[UnknownWords], []uint64{3, 5}[i]; got != want {
			t.Errorf("%s: %d unknown words so far, want %d", policy, got, want)
		}
	}
	if n := strings.Count(log.String(), "unknown words in a policy"); n != 1 || !strings.Contains(log.String(), "colour=blue") {
		t.Errorf("%d lines in the log, want 1:\n%s", n, &log)
	}
}

// TestPolicyEndsWithItsGroup: a group made anew under the same path has none, although
// nothing of the container is read while view=off holds.
func TestPolicyEndsWithItsGroup(t *testing.T) {
	h := load(t, "bookworm-v2")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	dir := policyDirs(t, r, s)[0]
	own := render(t, r, "uptime", s)
	setPolicy(t, dir, "view=off")
	if got := render(t, r, "uptime", s); bytes.Equal(got, own) {
		t.Fatalf("view=off: %q", got)
	}
	old := dir + ".old"
	if err := os.Rename(dir, old); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(old); err != nil { // as a removed group's, its files are gone
		t.Fatal(err)
	}
	if got := render(t, r, "uptime", s); !bytes.Equal(got, own) {
		t.Errorf("uptime is %q, want %q", got, own)
	}
}

func TestSetAndUnsetWords(t *testing.T) {
	for _, tt := range []struct {
		text  string
		words []string
		want  string
	}{
		{"", []string{"swap=off", "view=on"}, "view=on swap=off"},
		{"view=off  swap=on\n", []string{"cpu=request", "view=on"}, "view=on cpu=request swap=on"},
		{"later=1 cpu=quota cpu=cpuset", []string{"cpu=request"}, "cpu=request later=1"},
		{"", []string{"cpu=quota", "cpu=cpuset"}, "cpu=cpuset"},
	} {
		if got := setWords(tt.text, tt.words); got != tt.want {
			t.Errorf("%q and %q: %q, want %q", tt.text, tt.words, got, tt.want)
		}
	}
	if got := unsetWords("view=off later=1 cpu=quota", []string{"view", "cpu"}); got != "later=1" {
		t.Errorf("unset: %q", got)
	}
}

func TestSetRefusesWhatNobodyKnows(t *testing.T) {
	h := load(t, "bookworm-v2")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	dir := policyDirs(t, r, s)[0]
	for _, w := range []string{"colour=blue", "cpu", "cpu=all", "files=nothing", "files=", "files=meminfo,", "files=mem info", "view=on\x00"} {
		if err := r.SetPolicy(dir, []string{"swap=off", w}); err == nil {
			t.Errorf("%q is set", w)
		}
	}
	if text, err := cgroup.ReadPolicy(dir); text != "" || err != nil {
		t.Errorf("the policy is %q (%v), want none", text, err)
	}
	long := "files=" + strings.Repeat("meminfo,", 600) + "meminfo"
	if err := r.SetPolicy(dir, []string{long}); err == nil {
		t.Error("a policy is set that nobody can read")
	}
	if err := r.UnsetPolicy(dir, []string{"colour"}); err == nil {
		t.Error("an unknown word is unset")
	}
}

// TestPolicyDirsOfADirectory are those of the hierarchy where policies are, and no others.
func TestPolicyDirsOfADirectory(t *testing.T) {
	for name, other := range map[string]string{"bookworm-v2": "proc", "bullseye-v1": "sys/fs/cgroup/cpuset"} {
		h := load(t, name)
		r := fixtureRegistry(t, h, nil)
		want := policyDirs(t, r, subject(t, h, h.Roles["child"]))
		got, err := r.PolicyDirsOf(want[0])
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q (%v), want %q", name, got, err, want)
		}
		for _, dir := range []string{want[0] + "/cgroup.procs", want[0] + "x", filepath.Join(h.Root, other)} {
			if got, err := r.PolicyDirsOf(dir); err == nil {
				t.Errorf("%s: %s is taken: %q", name, dir, got)
			}
		}
	}
}

// FuzzPolicy: whatever is on the directories, only what one of them says holds, and what
// is set can be read back.
func FuzzPolicy(f *testing.F) {
	f.Add("view=off cpu=request", "swap=off\nloadavg=host", "files=meminfo,cpu")
	f.Add("files=,,cpu/,x", "view=off view=on", "=\x00 cpu==quota ?")
	files := table()
	f.Fuzz(func(t *testing.T, own, parent, set string) {
		raw := fmt.Appendf(nil, "%s\x00%s\x00", strings.ReplaceAll(own, "\x00", " "), strings.ReplaceAll(parent, "\x00", " "))
		p := parsePolicy(raw, files)
		for key, s := range p.words {
			if !s.set {
				continue
			}
			text := []string{own, parent}[s.level]
			if !strings.Contains(text, wordNames[key]+"="+s.text) {
				t.Errorf("%s=%s is not in level %d: %q", wordNames[key], s.text, s.level, text)
			}
			if word(key) != wordFiles && wordValues[key][s.value] != s.text {
				t.Errorf("%s=%s is value %d", wordNames[key], s.text, s.value)
			}
		}
		if (p.hidden != nil) != p.words[wordFiles].set {
			t.Errorf("hidden %v, files set %t", p.hidden, p.words[wordFiles].set)
		}
		r := &Registry{files: files}
		if r.checkWord(set) != nil {
			return
		}
		key, value, _ := splitWord(set)
		again := parsePolicy([]byte(setWords(own, []string{set})), files)
		if got := again.words[key]; !got.set || got.text != value {
			t.Errorf("%q set in %q: %+v", set, own, got)
		}
	})
}
