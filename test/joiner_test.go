// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// joinScript moves its shell into the cgroups of process $1, as docker exec does
// with what it starts, and runs the rest of its arguments in the namespaces of
// $1.
const joinScript = `
while IFS=: read -r id controllers path; do
	case $controllers in
	'') dir=$UNIFIED ;;
	name=*) continue ;;
	*) dir=$(awk -v c="${controllers%%,*}" '$3 == "cgroup" && ("," $4 ",") ~ ("," c ",") { print $2; exit }' /proc/mounts) ;;
	esac
	test -n "$dir" && echo $$ > "$dir$path/cgroup.procs"
done < /proc/$1/cgroup
init=$1
shift
exec nsenter --target "$init" --pid --mount -- "$@"
`

// join runs a command in the container as `docker exec` would.
func join(t *testing.T, c *container, command ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-euc", joinScript, "join", strconv.Itoa(c.init)}, command...)...)
	cmd.Env = append(os.Environ(), "UNIFIED="+unifiedMount(t))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return string(out)
}

// unifiedMount is where cgroup v2 is mounted, or nothing.
func unifiedMount(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/mounts")) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}

func TestWhoJoinsAContainerSeesIts(t *testing.T) {
	c := startContainer(t, smallContainer()...)
	start := startOf(t, c.init)
	before := boottime(t)
	up := floats(t, join(t, c, "cat", "/proc/uptime"))[0]
	if after := boottime(t); up < before-start-0.02 || up > after-start+0.02 {
		t.Errorf("uptime %.2f, want %.2f to %.2f", up, before-start, after-start)
	}
	if got := meminfo(t, join(t, c, "cat", "/proc/meminfo"))["MemTotal"]; got != 256<<10 {
		t.Errorf("MemTotal %d kB", got)
	}
	if got := strings.Count(join(t, c, "grep", "^cpu[0-9]", "/proc/stat"), "\n"); got != 1 {
		t.Errorf("%d CPUs", got)
	}
}

func TestANestedContainerSeesItsOwn(t *testing.T) {
	// On v2 the inner one's cgroup is beside the outer one's: a cgroup with
	// processes cannot hand controllers down. So the limits are the inner's own.
	out := inContainer(t, []string{"--memory", "256M", "--cpus", "1"}, "sh", "-c",
		"sleep 2; vprocfs run --memory 128M -- sh -c 'cat /proc/meminfo; echo -; cat /proc/uptime'; echo -; cat /proc/uptime; echo -; cat /proc/meminfo")
	part := strings.Split(out, "-\n")
	if len(part) != 4 {
		t.Fatalf("output: %s", out)
	}
	inner, outer := floats(t, part[1])[0], floats(t, part[2])[0]
	if inner > outer-1.9 {
		t.Errorf("uptime: inner %.2f, outer %.2f, which began 2 s earlier", inner, outer)
	}
	if got := meminfo(t, part[0])["MemTotal"]; got != 128<<10 {
		t.Errorf("MemTotal of the inner: %d kB", got)
	}
	if got := meminfo(t, part[3])["MemTotal"]; got != 256<<10 {
		t.Errorf("MemTotal of the outer: %d kB", got)
	}
}

func TestAChildNamespaceHasAnUptimeOfItsOwn(t *testing.T) {
	// Its cgroup is the outer's, so it has the outer's memory.
	out := inContainer(t, smallContainer(), "sh", "-c",
		"sleep 2; unshare --pid --fork cat /proc/uptime /proc/meminfo; cat /proc/uptime")
	lines := strings.SplitAfter(out, "\n")
	inner, outer := floats(t, lines[0])[0], floats(t, lines[len(lines)-2])[0]
	if inner > outer-1.9 {
		t.Errorf("uptime: inner %.2f, outer %.2f, which began 2 s earlier", inner, outer)
	}
	if got := meminfo(t, strings.Join(lines[1:len(lines)-2], ""))["MemTotal"]; got != 256<<10 {
		t.Errorf("MemTotal %d kB", got)
	}
}

func TestOneDaemonServesManyContainers(t *testing.T) {
	dir, _ := serve(t)
	var all []*container
	for i := range 4 {
		all = append(all, startContainer(t, "--mount", dir, "--memory", fmt.Sprintf("%dM", 100+i)))
		sleep(200)
	}
	var youngest float64
	for i, c := range all {
		if got := meminfo(t, c.sh(t, "cat /proc/meminfo"))["MemTotal"]; got != uint64(100+i)<<10 {
			t.Errorf("container %d: MemTotal %d kB", i, got)
		}
	}
	for i := len(all) - 1; i >= 0; i-- {
		up := floats(t, all[i].sh(t, "cat /proc/uptime"))[0]
		if up < youngest+0.1 {
			t.Errorf("container %d: uptime %.2f, the next one has %.2f", i, up, youngest)
		}
		youngest = up
	}
}

// TestHostReaderGetsTheHostsFile compares what can be compared: numbers that
// move are between two looks at the host's own file.
func TestHostReaderGetsTheHostsFile(t *testing.T) {
	dir, _ := serve(t)
	// A reader in the root cgroup of what the CPU numbers come from. (On v2 it
	// is the root of all.)
	var script strings.Builder
	allRoot := false
	for _, controller := range []string{"cpu", "cpuacct", "cpuset"} {
		if _, v2 := cgroupDir(t, os.Getpid(), controller); v2 {
			fmt.Fprintf(&script, "echo $$ > %s/cgroup.procs; ", cgroupMount(t, "cgroup2", ""))
			allRoot = true
		} else {
			fmt.Fprintf(&script, "echo $$ > %s/cgroup.procs; ", cgroupMount(t, "cgroup", controller))
		}
	}
	read := func(path string) string {
		out, err := exec.Command("sh", "-ec", script.String()+`exec cat "$0"`, path).Output()
		if err != nil {
			t.Fatalf("cat %s: %v", path, err)
		}
		return string(out)
	}
	for _, name := range []string{"uptime", "stat"} {
		before := strings.Fields(read("/proc/" + name))
		got := strings.Fields(read(filepath.Join(dir, "proc", name)))
		after := strings.Fields(read("/proc/" + name))
		if len(got) != len(before) || len(got) != len(after) {
			t.Errorf("%s has %d fields, the host's %d", name, len(got), len(before))
			continue
		}
		for i, s := range got {
			if i > 0 && strings.HasPrefix(got[i-1], "procs_") {
				continue // how many run and wait right now goes up and down
			}
			g, err := strconv.ParseFloat(s, 64)
			if err != nil {
				if s != before[i] {
					t.Errorf("%s: field %d is %q, the host's %q", name, i, s, before[i])
				}
				continue
			}
			b, a := floats(t, before[i])[0], floats(t, after[i])[0]
			if g < min(a, b) || g > max(a, b) {
				t.Errorf("%s: field %d is %s, the host's %s to %s", name, i, s, before[i], after[i])
			}
		}
	}
	want := effectiveMemory(t, os.Getpid())
	if allRoot {
		want = meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]
	}
	if got := meminfo(t, read(filepath.Join(dir, "proc/meminfo")))["MemTotal"]; got != want {
		t.Errorf("MemTotal %d kB, want %d kB", got, want)
	}
}
