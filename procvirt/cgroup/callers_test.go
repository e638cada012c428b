// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"vprocfs/procvirt/held"
)

// slots is how many threads the Callers of the tests remember.
const slots = 256

// fakeThreads is a /proc of files that tests replace, as threads come and go.
type fakeThreads struct {
	t    *testing.T
	proc string
}

func (f fakeThreads) set(pid int, groups string) {
	dir := filepath.Join(f.proc, strconv.Itoa(pid))
	if err := os.RemoveAll(dir); err != nil {
		f.t.Fatal(err)
	}
	write(f.t, dir, "cgroup", groups)
}

func alwaysIn(ns uint64) func(int) (uint64, bool) {
	return func(int) (uint64, bool) { return ns, true }
}

func TestOnlyThreadsThatComeAgainAreRemembered(t *testing.T) {
	f := fakeThreads{t, t.TempDir()}
	f.set(7, "0::/a\n")
	f.set(7+slots, "0::/b\n")
	var o held.Opener
	c := NewCallers(&o, f.proc, slots, alwaysIn(1))
	learn := func(pid int, want string) {
		t.Helper()
		if _, _, ok := c.Read(pid, nil); ok {
			t.Errorf("%d is known", pid)
		}
		if text, err := c.Learn(pid, 1, nil); err != nil || string(text) != want {
			t.Errorf("%d: %q, %v", pid, text, err)
		}
	}
	learn(7, "0::/a\n")
	if o.Count() != 0 {
		t.Error("a file is kept for a thread that came once")
	}
	learn(7, "0::/a\n")
	if text, ns, ok := c.Read(7, nil); !ok || ns != 1 || string(text) != "0::/a\n" || o.Count() != 1 {
		t.Errorf("the third time: %q, %d, %v, %d files", text, ns, ok, o.Count())
	}
	// one that comes once does not push it out, one that comes twice does
	learn(7+slots, "0::/b\n")
	if _, _, ok := c.Read(7, nil); !ok {
		t.Error("pushed out by a thread that came once")
	}
	learn(7+slots, "0::/b\n")
	if _, _, ok := c.Read(7, nil); ok || o.Count() != 1 {
		t.Errorf("still known, %d files", o.Count())
	}
	c.Drop(2)
	if o.Count() != 1 {
		t.Error("dropped with another namespace")
	}
	c.Drop(1)
	if o.Count() != 0 {
		t.Errorf("%d files after its namespace has ended", o.Count())
	}
}

// TestARecycledNumberIsNotMistaken guards the moment between two looks at a pid.
func TestARecycledNumberIsNotMistaken(t *testing.T) {
	f := fakeThreads{t, t.TempDir()}
	f.set(7, "0::/a\n")
	var o held.Opener
	for _, still := range []func(int) (uint64, bool){
		alwaysIn(2),
		func(int) (uint64, bool) { return 0, false },
	} {
		c := NewCallers(&o, f.proc, slots, still)
		for range 3 {
			if _, err := c.Learn(7, 1, nil); err != nil {
				t.Fatal(err)
			}
			if _, _, ok := c.Read(7, nil); ok || o.Count() != 0 {
				t.Fatalf("remembered in a namespace that it is not in; %d files", o.Count())
			}
		}
	}
}

func TestADeadThreadIsForgotten(t *testing.T) {
	cmd := startSleeper(t)
	var o held.Opener
	c := NewCallers(&o, "/proc", slots, alwaysIn(1))
	for range 2 {
		if _, err := c.Learn(cmd.Process.Pid, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, ok := c.Read(cmd.Process.Pid, nil); !ok {
		t.Fatal("not remembered")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	if text, _, ok := c.Read(cmd.Process.Pid, nil); ok || o.Count() != 0 {
		t.Errorf("%q of a dead thread, %d files", text, o.Count())
	}
	if _, err := c.Learn(cmd.Process.Pid, 1, nil); err == nil {
		t.Error("learned a dead thread")
	}
}

func startSleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()
	})
	return cmd
}
