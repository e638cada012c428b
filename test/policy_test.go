// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const policyAttribute = "trusted.vprocfs"

// policyDir is the directory that has the policy of the containers in g.
func (g *group) policyDir() string { return g.dirs["memory"] }

// policy runs a verb on the policy of a container.
func policy(t testing.TB, verb string, c *container, words ...string) string {
	t.Helper()
	args := append([]string{verb, "--pid", strconv.Itoa(c.init)}, words...)
	out, stderr, status := vprocfs(t, args...)
	if status != 0 || stderr != "" {
		t.Fatalf("vprocfs %q: exit status %d\n%s%s", args, status, out, stderr)
	}
	return out
}

// shownCPUs is how many CPUs the container sees.
func shownCPUs(t testing.TB, c *container) int {
	t.Helper()
	return strings.Count(c.sh(t, "cat /proc/stat"), "\ncpu")
}

// TestPolicyTakesEffectAtTheNextRead of a container that holds its files open, set and
// unset from the host.
func TestPolicyTakesEffectAtTheNextRead(t *testing.T) {
	dir, _ := serve(t)
	g := newGroup(t)
	g.limitMemory(t, 200)
	g.limitCPU(t, 50)
	c := startCommand(t, []string{"--mount", dir}, toolCommand(t, "reread", "/proc/meminfo")...)
	g.adopt(t, c)
	total := func() int { return int(meminfo(t, c.answer(t, "", "."))["MemTotal"]) }
	host := int(meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"])
	for range 3 {
		if got := total(); got != 200<<10 {
			t.Fatalf("MemTotal %d kB, want 200 MiB", got)
		}
		policy(t, "set", c, "view=off", "swap=off")
		if got := total(); got != host {
			t.Errorf("view=off: MemTotal %d kB, want the host's %d", got, host)
		}
		if got, want := policy(t, "get", c), fmt.Sprintf("view=off  %s\nswap=off  %[1]s\n", g.policyDir()); got != want {
			t.Errorf("get: %q, want %q", got, want)
		}
		policy(t, "unset", c, "view")
		if got := total(); got != 200<<10 {
			t.Errorf("without view=off: MemTotal %d kB, want 200 MiB", got)
		}
		policy(t, "set", c, "files=stat,uptime")
		if got := total(); got != host {
			t.Errorf("files=stat,uptime: MemTotal %d kB, want the host's %d", got, host)
		}
		if got := policy(t, "get", c, "--json"); !strings.Contains(got, `"key": "files",`) || !strings.Contains(got, `"unknown": []`) {
			t.Errorf("get --json:\n%s", got)
		}
		policy(t, "unset", c)
		if got := policy(t, "get", c); got != "" {
			t.Errorf("after unset: %q", got)
		}
	}
}

// TestPolicyOfAPodHoldsForItsContainers: what is nearer counts, and --cgroup names the
// group.
func TestPolicyOfAPodHoldsForItsContainers(t *testing.T) {
	dir, _ := serve(t)
	pod := newGroup(t)
	g := pod.child(t, "container")
	g.limitMemory(t, 200)
	c := startContainer(t, "--mount", dir)
	g.adopt(t, c)
	total := func() int { return int(meminfo(t, c.sh(t, "cat /proc/meminfo"))["MemTotal"]) >> 10 }
	for _, cmd := range [][]string{
		{"set", "--cgroup", pod.policyDir(), "view=off", "loadavg=host"},
		{"set", "--cgroup", g.policyDir(), "view=on"},
		{"unset", "--cgroup", g.policyDir(), "view"},
		{"unset", "--cgroup", pod.policyDir()},
	} {
		if out, stderr, status := vprocfs(t, cmd...); status != 0 || out != "" || stderr != "" {
			t.Fatalf("%q: exit status %d: %s%s", cmd, status, out, stderr)
		}
		off := strings.Contains(policy(t, "get", c), "view=off")
		time.Sleep(1100 * time.Millisecond) // the levels above are read once a second
		if got := total(); got == 200 == off {
			t.Errorf("after %q: MemTotal %d MiB; get says\n%s", cmd, got, policy(t, "get", c))
		}
	}
	if out, stderr, status := vprocfs(t, "set", "--cgroup", t.TempDir(), "view=off"); status != 1 || !strings.Contains(stderr, "is not below") {
		t.Errorf("a directory that is no control group: exit status %d: %s%s", status, out, stderr)
	}
}

// TestPolicyOutlivesTheDaemonAndNotTheGroup: it belongs to the control group.
func TestPolicyOutlivesTheDaemonAndNotTheGroup(t *testing.T) {
	g := newGroup(t)
	g.limitMemory(t, 200)
	below := g.child(t, "container")
	for _, want := range []string{"the host's", "the container's"} {
		d := startLXCFS(t)
		c := startContainer(t, "--mount", d.dir)
		below.adopt(t, c)
		if want == "the host's" {
			policy(t, "set", c, "view=off")
			// A worker that was killed has a successor, and a daemon that ended too.
			if err := unix.Kill(d.worker(t), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if got := meminfo(t, c.sh(t, "cat /proc/meminfo"))["MemTotal"]; got == 200<<10 {
				t.Errorf("after the worker's death view=off does not hold")
			}
			killDaemon(d.cmd)
			d = startLXCFS(t)
			again := startContainer(t, "--mount", d.dir)
			below.adopt(t, again)
			if got := meminfo(t, again.sh(t, "cat /proc/meminfo"))["MemTotal"]; got == 200<<10 {
				t.Errorf("after the daemon's death view=off does not hold")
			}
			again.end(t)
			c.end(t)
			dir := below.policyDir()
			removeGroup(t, dir)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got := memTotal(t, c.sh(t, "cat /proc/meminfo")); got != 200 {
			t.Errorf("a new group of the same name: MemTotal %d MiB, want 200", got)
		}
	}
}

// end ends the container.
func (c *container) end(t testing.TB) {
	t.Helper()
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	c.cmd.Wait()
}

// setAttribute is a Python program that tries to set, see and remove the policy of the
// directory in its first argument, and prints what became of each.
const setAttribute = `
import os, sys, errno
def try_(f):
    try: return f()
    except OSError as e: return errno.errorcode[e.errno]
d, n = sys.argv[1], "trusted.vprocfs"
print(try_(lambda: os.setxattr(d, n, b"view=off")), try_(lambda: os.getxattr(d, n)), try_(lambda: os.removexattr(d, n)))
`

// TestNoContainerCanSetItsPolicy, also with its control group mounted for writing: not as
// root of a user namespace with all capabilities there, and not as the host's root with
// all but CAP_SYS_ADMIN.
func TestNoContainerCanSetItsPolicy(t *testing.T) {
	need(t, "unshare", "util-linux")
	need(t, "setpriv", "util-linux")
	g := newGroup(t)
	dir := g.policyDir()
	run := func(in string) string {
		t.Helper()
		c := startContainer(t)
		g.adopt(t, c)
		script := filepath.Join(t.TempDir(), "set.py")
		if err := os.WriteFile(script, []byte(setAttribute), 0o644); err != nil {
			t.Fatal(err)
		}
		// The cgroup file systems are the host's here, mounted for writing.
		return strings.TrimSpace(c.sh(t, fmt.Sprintf("test -w %s/cgroup.procs && %s python3 %s %[1]s 2>&1", dir, in, script)))
	}
	for in, want := range map[string]string{
		"":                               "None b'view=off' None", // who may
		"unshare --user --map-root-user": "EPERM ENODATA EPERM",
		"unshare --user --map-root-user --mount --cgroup":                        "EPERM ENODATA EPERM",
		"setpriv --bounding-set -sys_admin --inh-caps -sys_admin --no-new-privs": "EPERM ENODATA EPERM",
	} {
		if got := run(in); got != want {
			t.Errorf("%q: set, see, remove: %q, want %q", in, got, want)
		}
		if n, err := unix.Getxattr(dir, policyAttribute, make([]byte, 100)); err != unix.ENODATA {
			t.Errorf("%q: there is a policy of %d bytes (%v)", in, n, err)
		}
	}
	// What the root of its own user namespace may set is not read.
	dirOf, _ := serve(t)
	g.limitMemory(t, 200)
	c := startContainer(t, "--mount", dirOf)
	g.adopt(t, c)
	_ = unix.Setxattr(dir, "user.vprocfs", []byte("view=off"), 0) // v2 only
	if got := memTotal(t, c.sh(t, "cat /proc/meminfo")); got != 200 {
		t.Errorf("MemTotal %d MiB, want 200", got)
	}
}

// TestRequestedCPUsShow for the weights that the kubelet and the runtime make of requests
// of 1.5 and of 0.5 CPUs, each by its old formula or its new one.
func TestRequestedCPUsShow(t *testing.T) {
	dir, _ := serve(t)
	online := strings.Count(readFile(t, "/proc/cpuinfo"), "processor\t")
	linear := func(shares int) int { return 1 + (shares-2)*9999/262142 }
	quadratic := func(shares int) int {
		l := math.Log2(float64(shares))
		return int(math.Ceil(math.Pow(10, (l*l+125*l)/612-7./34)))
	}
	none := func(shares int) int { return shares }
	g := newGroup(t)
	type formulas struct {
		name             string
		kubelet, runtime func(shares int) int
	}
	file, cases := "cpu.weight", []formulas{
		{"old kubelet, old runtime", linear, linear}, {"new kubelet, old runtime", quadratic, linear},
		{"old kubelet, new runtime", linear, quadratic}, {"new kubelet, new runtime", quadratic, quadratic},
	}
	if !g.v2["cpu"] {
		file, cases = "cpu.shares", []formulas{{"v1", none, none}}
	}
	for i, f := range cases {
		for shares, want := range map[int]int{1536: 2, 512: 1} {
			node := g.child(t, fmt.Sprintf("node-%d-%d", i, shares)).child(t, "kubepods")
			pod := node.child(t, "pod")
			own := pod.child(t, "container")
			c := startContainer(t, "--mount", dir)
			own.adopt(t, c)
			for group, weight := range map[*group]int{node: f.kubelet(1024 * online), pod: f.kubelet(shares), own: f.runtime(shares)} {
				write(t, filepath.Join(group.dirs["cpu"], file), strconv.Itoa(weight))
			}
			policy(t, "set", c, "cpu=request")
			want = min(want, len(testCPUs(t)))
			if got := shownCPUs(t, c); got != want {
				t.Errorf("%s, %d shares: %d CPUs, want %d", f.name, shares, got, want)
			}
			if got := strings.TrimSpace(c.sh(t, "grep -c ^processor /proc/cpuinfo")); got != strconv.Itoa(want) {
				t.Errorf("%s, %d shares: %s CPUs in cpuinfo, want %d", f.name, shares, got, want)
			}
			c.end(t)
		}
	}
}

// TestAPolicyThatNobodyCanReadIsCounted, and does nothing.
func TestAPolicyThatNobodyCanReadIsCounted(t *testing.T) {
	d := startLXCFS(t)
	g := newGroup(t)
	g.limitMemory(t, 200)
	c := startContainer(t, "--mount", d.dir)
	g.adopt(t, c)
	for _, text := range []string{"colour=blue view", "view=off " + strings.Repeat("x", 5000)} {
		if err := unix.Setxattr(g.policyDir(), policyAttribute, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := memTotal(t, c.sh(t, "cat /proc/meminfo")); got != 200 {
				t.Errorf("MemTotal %d MiB, want 200", got)
			}
		}
	}
	log := d.stop(t)
	if !strings.Contains(log, "policy/unknown-word:3") || strings.Count(log, "unknown words in a policy") != 1 {
		t.Errorf("want 3 unknown words counted, and one line:\n%s", log)
	}
}

// TestPolicyGivesTheHostsPressure, and triggers go with what is read.
func TestPolicyGivesTheHostsPressure(t *testing.T) {
	needTriggers(t)
	d := startLXCFS(t)
	c := python(t, d.dir)
	own, host := v2Dir(t, c.init)+"/cpu.pressure", "/proc/pressure/cpu"
	for i, words := range []string{"view=on", "files=meminfo", "files=pressure"} {
		policy(t, "set", c, words)
		file := []string{own, host, own}[i]
		before := pressureFilesOf(t, d.worker(t))
		if got := c.py(t, fmt.Sprintf(`kept%d = setnew(b"some 1000 2000000\0"); print(kept%d[0])`, i, i)); got != "18" {
			t.Fatalf("%s: a trigger: %s", words, got)
		}
		if now := pressureFilesOf(t, d.worker(t)); count(now, file) != count(before, file)+1 {
			t.Errorf("%s: the daemon watches %q, before %q; want one more of %s", words, now, before, file)
		}
	}
	if log := d.stop(t); strings.Contains(log, "level=ERROR") {
		t.Error(log)
	}
}

// TestExplainSaysWhichLimitHoldsAndWhoSetThePolicy, as text and as JSON.
func TestExplainSaysWhichLimitHoldsAndWhoSetThePolicy(t *testing.T) {
	pod := newGroup(t)
	pod.limitMemory(t, 200)
	g := pod.child(t, "container")
	c := startContainer(t)
	g.adopt(t, c)
	if _, stderr, status := vprocfs(t, "set", "--cgroup", pod.policyDir(), "loadavg=host"); status != 0 {
		t.Fatal(stderr)
	}
	policy(t, "set", c, "cpu=cpuset")
	text := policy(t, "explain", c)
	limit, own := "memory.limit_in_bytes", "9223372036854771712"
	if g.v2["memory"] {
		limit, own = "memory.max", "max"
	}
	for _, want := range []string{
		"MemTotal = 204800 kB", "/container, its own: " + own + "\n", ": 209715200, limits\n", limit + " of /",
		"cpu=cpuset, set on " + g.policyDir() + "\n", "loadavg=host, set on " + pod.policyDir() + "\n", "loadavg: the host's: policy\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("explain does not say %q:\n%s", want, text)
		}
	}
	var all struct {
		Files []struct {
			Name, Host string
			Policy     []struct{ Key, Value, Cgroup string }
			Numbers    []struct {
				Name, Value string
				From        []struct {
					File, Group, Value string
					Own, Limits        bool
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(policy(t, "explain", c, "--json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, f := range all.Files {
		switch f.Name {
		case "loadavg":
			if f.Host != "policy" || len(f.Policy) != 1 || f.Policy[0].Cgroup != pod.policyDir() {
				t.Errorf("loadavg: %+v", f)
			}
		case "meminfo":
			for _, s := range f.Numbers[0].From {
				if s.Limits != (s.Value == "209715200") {
					t.Errorf("MemTotal: %+v", f.Numbers[0])
				}
			}
		}
	}
	if len(all.Files) < 10 {
		t.Errorf("%d files", len(all.Files))
	}
}
