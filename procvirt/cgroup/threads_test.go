// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vprocfs/internal/procpid"
)

// tree is a made up machine: groups and threads in a directory.
type tree struct {
	tb         testing.TB
	root, proc string
	v2         bool
}

func newTree(tb testing.TB, v2 bool) *tree {
	root := tb.TempDir()
	return &tree{tb, filepath.Join(root, "group"), filepath.Join(root, "proc"), v2}
}

func (t *tree) write(path, text string) {
	t.tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.tb.Fatal(err)
	}
}

// group makes a group with threads, whose stat files are given from their names on.
func (t *tree) group(name string, threads map[int]string) {
	t.tb.Helper()
	var list strings.Builder
	for tid, rest := range threads {
		fmt.Fprintf(&list, "%d\n", tid)
		if rest != "" {
			t.write(fmt.Sprintf("%s/%d/task/%d/stat", t.proc, tid, tid), fmt.Sprintf("%d %s 1 1 1 0 -1\n", tid, rest))
		}
	}
	file := "tasks"
	if t.v2 {
		file = "cgroup.threads"
	}
	t.write(filepath.Join(t.root, name, file), list.String())
}

func (t *tree) count(last, limit int) Threads {
	t.tb.Helper()
	n, err := NewThreadCounter(t.proc).Count(Place{V2: t.v2, Dirs: []string{t.root}}, last, limit)
	if err != nil {
		t.tb.Fatal(err)
	}
	return n
}

func TestThreadsAreCountedByStateAtAllDepths(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		m := newTree(t, v2)
		m.group("", map[int]string{10: "(sh) S", 11: "(a) R (b) D", 12: "(x) R x) Z", 13: "(\n) D\n) R", 14: ""})
		for _, name := range []string{"a", "a/b", "a/b/c", "a/b/c/d"} {
			m.group(name, nil)
		}
		m.group("a/b/c/d/e", map[int]string{20: "(deep) R", 21: "(idle) I", 22: "(stopped) T", 23: "(traced) t", 24: "(dead) X"})
		m.group("other", map[int]string{30: "()) D"})
		want := Threads{Running: 2, Blocked: 2, Total: 8, Newest: 30}
		got := m.count(100, 1000)
		got.Looks = 0
		if got != want {
			t.Errorf("v2 %v: %+v, want %+v", v2, got, want)
		}
	}
}

func TestACountEndsAtItsLimit(t *testing.T) {
	m := newTree(t, true)
	threads := make(map[int]string)
	for tid := range 3000 {
		threads[tid+1] = "(x) R"
	}
	m.group("", threads)
	for i := range 40 {
		m.group(fmt.Sprintf("g%d", i), map[int]string{4000 + i: "(y) R"})
	}
	for _, limit := range []int{1, 100, 3001, 3010} {
		if n := m.count(1e6, limit); n.Looks > limit+3 || n.Looks < limit || n.Total > limit {
			t.Errorf("limit %d: %+v", limit, n)
		}
	}
	if n := m.count(1e6, 1e6); n.Total != 3040 {
		t.Errorf("without limit: %+v", n)
	}
}

func TestTheNumberOfGroupsIsBounded(t *testing.T) {
	m := newTree(t, false)
	m.group("", map[int]string{1: "(x) R"})
	for i := range maxGroups + 10 {
		m.group(fmt.Sprint(i), nil)
	}
	if n := m.count(10, 1e6); n.Looks > 2*maxGroups+1 {
		t.Errorf("%+v", n)
	}
}

// TestTheNewestThreadIsTheLastGivenOut guards the turn of the ids: the kernel begins
// anew at the bottom.
func TestTheNewestThreadIsTheLastGivenOut(t *testing.T) {
	m := newTree(t, true)
	m.group("", map[int]string{305: "(a) S", 320: "(b) S", 32000: "(c) S", 32700: "(d) S"})
	for last, want := range map[int]int{32767: 32700, 32100: 32000, 319: 305, 320: 320, 304: 32700} {
		if n := m.count(last, 100); n.Newest != want {
			t.Errorf("last %d: %d, want %d", last, n.Newest, want)
		}
	}
}

func TestARemovedGroupIsSaidToBe(t *testing.T) {
	c := NewThreadCounter(t.TempDir())
	for _, v2 := range []bool{false, true} {
		p := Place{V2: v2, Dirs: []string{filepath.Join(t.TempDir(), "gone")}}
		if _, err := c.Count(p, 1, 1); !errors.Is(err, ErrRemoved) {
			t.Errorf("count: %v", err)
		}
		if _, err := c.Usage(p); !errors.Is(err, ErrRemoved) {
			t.Errorf("usage: %v", err)
		}
	}
}

func TestUsageOfThreads(t *testing.T) {
	for _, c := range []struct {
		v2   bool
		text string
		want uint64
		ok   bool
	}{
		{true, "usage_usec 1234567\nuser_usec 1\n", 1234567000, true},
		{true, "user_usec 1\n", 0, false},
		{true, "", 0, false},
		{true, "usage_usec 18446744073709552\n", 384, true},
		{false, "1234567891\n", 1234567891, true},
		{false, "x\n", 0, false},
	} {
		m := newTree(t, c.v2)
		m.write(m.root+map[bool]string{false: "/cpuacct.usage", true: "/cpu.stat"}[c.v2], c.text)
		got, err := NewThreadCounter(m.proc).Usage(Place{V2: c.v2, Dirs: []string{m.root}})
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %d, %v", c.text, got, err)
		}
	}
}

func TestThreadIDsInNamespaces(t *testing.T) {
	m := newTree(t, true)
	m.write(m.proc+"/70/task/70/status", "Name:\tNSpid:\\n9\nTgid:\t70\nNSpid:\t70\t12\t1\nSeccomp:\t0\n")
	m.write(m.proc+"/71/task/71/status", "Name:\tx\nNSpid:\t71\n")
	m.write(m.proc+"/72/task/72/status", "Name:\told kernel\n")
	c := NewThreadCounter(m.proc)
	for _, want := range [][3]int{{70, 0, 70}, {70, 1, 12}, {70, 2, 1}, {70, 3, 0}, {71, 0, 71}, {71, 1, 0}, {72, 0, 0}, {73, 0, 0}} {
		if got := c.PID(want[0], want[1]); got != want[2] {
			t.Errorf("%d at level %d: %d, want %d", want[0], want[1], got, want[2])
		}
	}
	for tid, want := range map[int]int{70: 2, 71: 0, 72: -1, 73: -1} {
		if got := c.Level(tid); got != want {
			t.Errorf("level of %d: %d, want %d", tid, got, want)
		}
	}
}

// TestOwnThreadsAreSeen takes the kernel's own files.
func TestOwnThreadsAreSeen(t *testing.T) {
	c := NewThreadCounter("/proc")
	if s := procpid.State(c.read(os.Getpid(), "stat")); s == 0 || !strings.ContainsRune("RSD", rune(s)) {
		t.Errorf("state %q", s)
	}
	if c.Level(os.Getpid()) < 0 || c.PID(os.Getpid(), 0) != os.Getpid() {
		t.Errorf("level %d, id %d", c.Level(os.Getpid()), c.PID(os.Getpid(), 0))
	}
}
