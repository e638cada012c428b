// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// descendants are the children of pid, theirs, and so on.
func descendants(pid int) []int {
	all := childrenOf(pid)
	for i := 0; i < len(all); i++ {
		all = append(all, childrenOf(all[i])...)
	}
	return all
}

// The grandchild has a name that looks like lines of its status.
func TestAnInitIsFoundByItsDescendants(t *testing.T) {
	c := startContainer(t, "family", newPIDNS)
	below := descendants(c.pid)
	if len(below) != 2 {
		t.Fatalf("below the init are %v, want two", below)
	}
	for _, pid := range append(below, c.pid) {
		r := newResolver(t, Config{Method: Parents})
		if found := resolve(t, r, pid, c.pid); found.By != Parents {
			t.Errorf("process %d: found by %v", pid, found.By)
		}
	}
}

// Who comes from outside, and who hides the line that tells, costs a helper.
func TestWhereParentsAreOfNoUseAHelperIs(t *testing.T) {
	outer := startCrowd(t, "nested", 2)
	inner := childrenOf(outer.pid)
	if len(inner) != 1 {
		t.Fatalf("children of the outer init: %v, want one", inner)
	}
	c := startContainer(t, "init", newPIDNS)
	guest := joined(t, c.pid)
	defer guest.end() // before the init, which waits for it
	grouped := startContainer(t, "grouped", newPIDNS)
	for _, tt := range []struct {
		what      string
		pid, want int
		by        Method
	}{
		{"a guest", guest.pid, c.pid, Fork},
		{"one with many groups", grouped.pid, grouped.pid, Fork},
		{"an init in a container", inner[0], inner[0], Parents},
	} {
		r := newResolver(t, Config{Method: Parents})
		if found := resolve(t, r, tt.pid, tt.want); found.By != tt.by {
			t.Errorf("%s: found by %v, want %v", tt.what, found.By, tt.by)
		}
	}
}

// A pid that is another process by the time it is looked at again is none.
func TestAnotherNamespacesInitIsNotTaken(t *testing.T) {
	r := newResolver(t, Config{Method: Parents})
	a, b := startContainer(t, "init", newPIDNS), startContainer(t, "init", newPIDNS)
	if pid, err := r.proc.findParents(a.pid, nsOf(t, b.pid)); err != errNoAncestor {
		t.Errorf("%d, %v", pid, err)
	}
	if pid, err := r.proc.findParents(1<<22, nsOf(t, b.pid)); err == nil {
		t.Errorf("a pid that is nobody's: %d", pid)
	}
}

func TestStatusIsParsed(t *testing.T) {
	for _, tt := range []struct {
		text string
		want status
		ok   bool
	}{
		{"Name:\tcat\nTgid:\t12\nPPid:\t7\nNStgid:\t12\t3\t1\nNSpid:\t13\t4\t2\n", status{12, 7, 3, 1}, true},
		{"Tgid:\t12\nPPid:\t0\nNStgid:\t12\n", status{12, 0, 1, 12}, true},
		{"Tgid:\t12\nPPid:\t7\nNStgid:\t12\t1", status{}, false}, // cut off: it may go on with a 5
		{"Tgid:\t12\nPPid:\t7\n", status{}, false},
		{"NStgid:\t12\t1\n", status{}, false},
		{"Tgid:\t12\nPPid:\t7\nNStgid:\t\n", status{}, false},
		{"Tgid:\tx\nPPid:\t7\nNStgid:\t12\t1\n", status{}, false},
		{"Tgid:\t12\nPPid:\t7\nNStgid:\t12\t-1\n", status{}, false},
		{"", status{}, false},
	} {
		if got, ok := parseStatus([]byte(tt.text)); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q: %+v, %v", tt.text, got, ok)
		}
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := parseStatus(text); !ok || got.tgid != os.Getpid() || got.parent != os.Getppid() {
		t.Errorf("our own: %+v, %v", got, ok)
	}
}

func FuzzStatus(f *testing.F) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("Tgid:\t12\nPPid:\t7\nNStgid:\t12\t3\t1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		st, ok := parseStatus(text)
		if ok && (st.tgid <= 0 || st.parent < 0 || st.level <= 0 || st.inner <= 0) {
			t.Errorf("%+v", st)
		}
	})
}

// What a walk opens it closes, wherever it ends.
func TestTheWalkLeavesNoDescriptor(t *testing.T) {
	r := newResolver(t, Config{Method: Parents})
	c := startContainer(t, "family", newPIDNS)
	ns := nsOf(t, c.pid)
	before := openFiles()
	for _, pid := range []int{c.pid, descendants(c.pid)[1], os.Getpid(), unix.Gettid(), 1 << 22} {
		_, _ = r.proc.findParents(pid, ns) // whatever comes of it
	}
	if after := openFiles(); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
}
