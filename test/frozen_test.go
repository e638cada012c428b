// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// freezer is a cgroup that can be frozen: on v1 one of the test's own, on v2 that of
// the container.
type freezer struct{ dir, file, frozen, thawed string }

func newFreezer(t *testing.T) *freezer {
	t.Helper()
	dir, v2 := cgroupDir(t, os.Getpid(), "freezer")
	if v2 {
		return &freezer{file: "cgroup.freeze", frozen: "1", thawed: "0"}
	}
	dir = filepath.Join(dir, fmt.Sprintf("vprocfs-test-frozen-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeGroup(t, dir) })
	return &freezer{dir, "freezer.state", "FROZEN", "THAWED"}
}

// adopt takes a container, its init and one command.
func (f *freezer) adopt(t *testing.T, c *container) {
	t.Helper()
	if f.dir == "" {
		f.dir, _ = c.ownCgroup(t, "memory")
	} else {
		for _, pid := range append(children(c.init), c.init) {
			write(t, filepath.Join(f.dir, "cgroup.procs"), strconv.Itoa(pid))
		}
	}
	t.Cleanup(func() {
		if t.Failed() { // else it is, and may have ended
			f.set(t, f.thawed)
		}
	})
}

func (f *freezer) set(t *testing.T, state string) {
	t.Helper()
	write(t, filepath.Join(f.dir, f.file), state)
	waitFor(t, "state "+state, func() bool {
		if f.file == "cgroup.freeze" {
			return strings.Contains(readFile(t, filepath.Join(f.dir, "cgroup.events")), "frozen "+state)
		}
		return readFile(t, filepath.Join(f.dir, f.file)) == state+"\n"
	})
}

// TestNobodyWaitsForAFrozenContainer freezes one whose threads are in the middle of
// reads: others read on, a new one reads for the first time, and the frozen one goes
// on where it was.
func TestNobodyWaitsForAFrozenContainer(t *testing.T) {
	dir, _ := serve(t)
	f := newFreezer(t)
	cold, progressOfCold := survivorIn(t, dir)
	other, progress := survivorIn(t, dir)
	f.adopt(t, cold)
	for range 5 {
		wantReads(t, progressOfCold)
		f.set(t, f.frozen)
		wantReads(t, progress)
		if out := inContainer(t, []string{"--mount", dir, "--memory", "64M"}, "cat", "/proc/meminfo"); memTotal(t, out) != 64 {
			t.Errorf("a new container sees %s", out)
		}
		f.set(t, f.thawed)
	}
	endSurvivor(t, cold)
	endSurvivor(t, other)
}
