// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// offForUsers says that CPUs from n on are off for all users but 0.
type offForUsers int

func (offForUsers) LastCPU(*fs.Turn) (int, error) { return math.MaxInt, nil }

func (n offForUsers) CPUOffline(t *fs.Turn, cpu int) (bool, error) {
	return t.Caller().UID != 0 && cpu >= int(n), nil
}

// TestAHiddenCPULooksSwitchedOff asks for what a CPU has only while it is on, in all
// the ways there are, with the kernel knowing the names and without.
func TestAHiddenCPULooksSwitchedOff(t *testing.T) {
	dir := fakeCPUs(t, 4)
	for cpu := range 4 {
		if cpu > 0 {
			fakeFile(t, dir, fmt.Sprintf("cpu%d/online", cpu), "1\n", 0o644)
		}
		fakeFile(t, dir, fmt.Sprintf("cpu%d/cache/index0/size", cpu), "32K\n", 0o444)
	}
	_, cpus := serveCPUs(t, dir, offForUsers(2))
	check := func(cpu int, off bool) {
		t.Helper()
		top := fmt.Sprintf("%s/cpu%d", cpus, cpu)
		for _, name := range []string{"/topology", "/topology/core_id", "/cache", "/cache/index0", "/cache/index0/size"} {
			var st unix.Stat_t
			for what, err := range map[string]error{
				"stat":   unix.Lstat(top+name, &st),
				"open":   openError(top+name, unix.O_RDONLY),
				"access": unix.Faccessat2(unix.AT_FDCWD, top+name, unix.F_OK, unix.AT_EACCESS),
			} {
				if off && err != unix.ENOENT || !off && err != nil {
					t.Errorf("%s of cpu%d%s: %v", what, cpu, name, err)
				}
			}
		}
		want := "1\n"
		if off {
			want = "0\n"
		}
		if got, err := readAll(top + "/online"); cpu > 0 && (got != want || err != nil) {
			t.Errorf("online of cpu%d: %q, %v", cpu, got, err)
		}
		if err := openError(top+"/online", unix.O_RDONLY); cpu == 0 && err != unix.ENOENT {
			t.Errorf("online of the first CPU, which the host does not have: %v", err)
		}
		names := listing(t, top)
		for _, name := range []string{"topology", "cache"} {
			if slices.Contains(names, name) == off {
				t.Errorf("cpu%d has %q", cpu, names)
			}
		}
		for _, name := range []string{"node0", "crash_notes"} {
			if !slices.Contains(names, name) {
				t.Errorf("cpu%d has %q", cpu, names)
			}
		}
	}
	for range 2 {
		asUser(t, 1234, func() {
			check(3, true) // before anybody else, and after
			check(1, false)
			if names := listing(t, cpus); !slices.Contains(names, "cpu3") {
				t.Errorf("listed are %q", names)
			}
		})
		check(3, false)
	}
	_, cpus = serveCPUs(t, dir, offForUsers(0))
	asUser(t, 1234, func() { check(0, true) })
}
