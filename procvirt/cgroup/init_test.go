// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vprocfs/procvirt/held"
)

// TestAnInitWhoseFirstThreadExited guards multi-threaded inits: the v1 lines of
// an exiting thread say "/".
func TestAnInitWhoseFirstThreadExited(t *testing.T) {
	proc := t.TempDir()
	thread := func(dir, state, groups string) {
		write(t, filepath.Join(proc, dir), "stat", "7 (a) b) "+state+" 1 2\n", "cgroup", groups)
	}
	for _, tt := range []struct{ rule, leader, want string }{
		{"a living first thread is asked itself", "S", "4:memory:/\n"},
		{"a dead one is not", "Z", "4:memory:/ct\n"},
	} {
		for _, dir := range []string{"7", "7/task/7"} {
			thread(dir, tt.leader, "4:memory:/\n")
		}
		for _, tid := range []int{8, 9} {
			state, groups := "Z", "4:memory:/\n"
			if tid == 9 {
				state, groups = "R", "4:memory:/ct\n"
			}
			thread(strconv.Itoa(tid), state, groups)
			thread("7/task/"+strconv.Itoa(tid), state, groups)
		}
		var o held.Opener
		f, err := OpenInitMembership(&o, proc, 7)
		if err != nil {
			t.Fatal(err)
		}
		text, err := f.Read(nil)
		if err != nil || string(text) != tt.want {
			t.Errorf("%s: %q, %v", tt.rule, text, err)
		}
		f.Close()
	}
}

func TestMembershipOfThisProcess(t *testing.T) {
	want, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadMembership("/proc", os.Getpid(), make([]byte, 0, 8)) // too small at first
	if err != nil || string(got) != string(want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if _, err := ReadMembership("/proc", 1<<30, nil); err == nil || strings.Contains(err.Error(), "EBADF") {
		t.Errorf("no such process: %v", err)
	}
}
