// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cgroupMounts makes a script that replaces the host's cgroup mounts by those of
// the shell's cgroup namespace, at the same places, as container runtimes do.
func cgroupMounts(t *testing.T) string {
	t.Helper()
	var mounts, unmounts strings.Builder
	for line := range strings.Lines(readFile(t, "/proc/mounts")) {
		f := strings.Fields(line)
		if f[2] != "cgroup" && f[2] != "cgroup2" {
			continue
		}
		fmt.Fprintf(&unmounts, "busybox umount -l '%s'\n", f[1])
		if f[2] == "cgroup2" {
			fmt.Fprintf(&mounts, "busybox mount -t cgroup2 cgroup2 '%s'\n", f[1])
			continue
		}
		var options []string
		for o := range strings.SplitSeq(f[3], ",") {
			if strings.HasPrefix(o, "name=") {
				options = append(options, "none", o)
			} else if slices.Contains(append(viewControllers(), "blkio", "pids", "devices", "freezer"), o) {
				options = append(options, o)
			}
		}
		if len(options) > 0 {
			fmt.Fprintf(&mounts, "busybox mount -t cgroup -o '%s' cgroup '%s'\n", strings.Join(options, ","), f[1])
		}
	}
	return unmounts.String() + mounts.String()
}

// TestADaemonInAContainerServesTheContainersInIt has the daemon in namespaces of
// its own, for pids, mounts and cgroups.
func TestADaemonInAContainerServesTheContainersInIt(t *testing.T) {
	need(t, "busybox", "busybox-static")
	g := newGroup(t)
	g.limitMemory(t, 200)
	dir := t.TempDir()
	script := cgroupMounts(t) + `
busybox mount -t proc proc /proc
`
	script += fmt.Sprintf(`
vprocfs serve '%s' 2>/dev/null &
until test -e '%[1]s/proc/meminfo'; do sleep 0.1; done
echo ready
while read -r line; do eval "$line"; done
`, dir)
	leave := ":"
	if g.unified != "" {
		// The group becomes the root that the container sees. Only a v2 group without
		// processes can give its children controllers: all go to a child, unshare too.
		scope := filepath.Join(g.unified, "init.scope")
		leave = fmt.Sprintf("mkdir '%s' && echo 0 > '%[1]s/cgroup.procs'", scope)
		t.Cleanup(func() { removeGroup(t, scope) })
	}
	cmd := exec.Command("sh", "-c", g.enter()+` && exec unshare --cgroup sh -euc "$0" "$1"`,
		leave+` && exec unshare --pid --fork --mount sh -euc "$0"`, script)
	d := startSubject(t, cmd, "ready")

	inside := func(limits string) string {
		return d.answer(t, fmt.Sprintf("vprocfs run --mount '%s' %s -- cat /proc/meminfo; vprocfs run --mount '%[1]s' --cpus 0.5 -- cat /proc/stat; echo :end:", dir, limits), ":end:")
	}
	for limits, want := range map[string]int{"--memory 64M": 64, "": 200} {
		mem, stat, ok := strings.Cut(inside(limits), "cpu ")
		if !ok {
			t.Fatalf("no files: %s%s", mem, stat)
		}
		if got := memTotal(t, mem); got != want {
			t.Errorf("%q: MemTotal %d MiB, want %d", limits, got, want)
		}
		if got, want := statCPUs(t, stat), testCPUs(t)[:1]; !slices.Equal(got, want) {
			t.Errorf("rows of CPUs %v, want %v", got, want)
		}
	}
	// From outside the kernel has no pid of the caller for the daemon: 0.
	outside := readFile(t, fmt.Sprintf("/proc/%d/root%s/proc/meminfo", d.init, dir))
	if got, want := meminfo(t, outside)["MemTotal"], meminfo(t, readFile(t, "/proc/meminfo"))["MemTotal"]; got != want {
		t.Errorf("outside: MemTotal %d kB, want the host's %d kB", got, want)
	}
}
