// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nested starts a container with containers in each other, depth in all, and returns
// the pids of their inits, outermost first.
func nested(t *testing.T, depth int) (pids []int) {
	t.Helper()
	c := startCrowd(t, "nested", depth)
	pids = []int{c.pid}
	for len(pids) < depth {
		kids := childrenOf(pids[len(pids)-1])
		if len(kids) != 1 {
			t.Fatalf("children of init %d: %v, want one", len(pids), kids)
		}
		pids = append(pids, kids[0])
	}
	return pids
}

// eachKind runs a test with namespace ids, if the kernel has them, and as on a
// kernel that does not.
func eachKind(t *testing.T, test func(t *testing.T, r *Resolver)) {
	t.Run("inodes", func(t *testing.T) {
		r := newResolver(t, Config{})
		r.ancestry.host.ID = 0
		test(t, r)
	})
	if kernelIs(t, 6, 18) {
		t.Run("ids", func(t *testing.T) { test(t, newResolver(t, Config{})) })
	}
}

func TestOutermostNamespaceIsTheSameForAllThatIsInIt(t *testing.T) {
	eachKind(t, func(t *testing.T, r *Resolver) {
		pids := nested(t, 3)
		want := nsOf(t, pids[0])
		before := len(openFiles())
		for _, pid := range pids {
			if ns, err := r.Outermost(pid); ns != want || err != nil {
				t.Errorf("process %d: %d, %v; want %d", pid, ns, err, want)
			}
		}
		own := nsOf(t, os.Getpid())
		if ns, err := r.Outermost(os.Getpid()); ns != own || err != nil {
			t.Errorf("our own process: %d, %v; want %d", ns, err, own)
		}
		_, err := r.Outermost(1 << 22)
		wantErr(t, "a pid that is nobody's", err, ErrCallerGone)
		if after := len(openFiles()); after != before {
			t.Errorf("%d open files, %d before", after, before)
		}
	})
}

func TestInitKnowsItsOwner(t *testing.T) {
	eachKind(t, func(t *testing.T, r *Resolver) {
		pids := nested(t, 3)
		slices.Reverse(pids)
		want := nsOf(t, pids[2])
		for _, pid := range pids {
			if init := resolve(t, r, pid, pid); init.Owner != want {
				t.Errorf("owner of %+v is %d, want %d", init, init.Owner, want)
			}
			if init, ok, err := r.Lookup(pid); !ok || err != nil || init.Owner != want {
				t.Errorf("Lookup = %+v, %v, %v; want owner %d", init, ok, err, want)
			}
		}
		if init, err := r.Resolve(os.Getpid()); err != nil || init.Owner != nsOf(t, os.Getpid()) {
			t.Errorf("host: %+v, %v; want our own namespace as owner", init, err)
		}
	})
}

// countSteps counts how often a resolver asks the kernel for a parent.
func countSteps(r *Resolver) *int {
	steps := new(int)
	up := r.ancestry.parent
	r.ancestry.parent = func(nsfd int) (int, uint64, error) { *steps++; return up(nsfd) }
	return steps
}

// TestOutermostOfANewNamespaceCostsOneStep guards what a container can make the
// daemon do by opening files 31 namespaces deep.
func TestOutermostOfANewNamespaceCostsOneStep(t *testing.T) {
	eachKind(t, func(t *testing.T, r *Resolver) {
		r.ancestry.now = func() time.Duration { return 0 }
		steps := countSteps(r)
		pids := nested(t, 31)
		want := nsOf(t, pids[0])
		ask := func(what string, pid, most int) {
			t.Helper()
			*steps = 0
			if ns, err := r.Outermost(pid); ns != want || err != nil {
				t.Errorf("%s: %d, %v; want %d", what, ns, err, want)
			}
			if *steps > most {
				t.Errorf("%s: %d steps up, want at most %d", what, *steps, most)
			}
		}
		ask("level 30", pids[29], 30)
		ask("level 31, one below a known one", pids[30], 1)
		for i, pid := range pids {
			ask("level "+strconv.Itoa(i+1)+", known", pid, 0)
		}
	})
}

func TestOutermostIsForgottenInTimeWithoutIDs(t *testing.T) {
	r := newResolver(t, Config{})
	r.ancestry.host.ID = 0
	now := time.Duration(0)
	r.ancestry.now = func() time.Duration { return now }
	steps := countSteps(r)
	pids := nested(t, 2)
	for _, tt := range []struct {
		at        time.Duration
		pid, want int
	}{
		{0, pids[0], 1},
		{inodeTTL - 1, pids[1], 1}, // derived from an answer that is one second old soon
		{inodeTTL - 1, pids[1], 0},
		{inodeTTL, pids[1], 2},
	} {
		*steps, now = 0, tt.at
		if _, err := r.Outermost(tt.pid); err != nil || *steps != tt.want {
			t.Errorf("at %v: %d steps, %v; want %d", tt.at, *steps, err, tt.want)
		}
	}
}

// TestStaleAncestryDoesNotReachTheCache: an entry's owner is kept for long, so it is
// not taken from an inode number that may be another namespace's.
func TestStaleAncestryDoesNotReachTheCache(t *testing.T) {
	r := newResolver(t, Config{})
	r.ancestry.host.ID = 0
	c := startContainer(t, "init", newPIDNS)
	ns := nsOf(t, c.pid)
	r.ancestry.remember([]uint64{ns}, ancestor{12345, r.ancestry.now()})
	if got, err := r.Outermost(c.pid); got != 12345 || err != nil {
		t.Fatalf("Outermost = %d, %v: the test tests nothing", got, err)
	}
	if init := resolve(t, r, c.pid, c.pid); init.Owner != ns {
		t.Errorf("owner is %d, want %d", init.Owner, ns)
	}
}

func TestAncestryIsBounded(t *testing.T) {
	a := newAncestry(Init{NS: 1, ID: 1})
	for key := range uint64(10 * maxAncestry) {
		a.remember([]uint64{key}, ancestor{ns: key})
		if _, ok := a.get(7); !ok && key >= 7 {
			t.Fatalf("after %d keys one in use is forgotten", key)
		}
	}
	if n := len(a.recent) + len(a.older); n > 2*maxAncestry {
		t.Errorf("%d namespaces are remembered, want at most %d", n, 2*maxAncestry)
	}
	if _, ok := a.get(8); ok {
		t.Error("one that is not in use is remembered for ever")
	}
}

func TestOutermostReportsAnErrorOfTheKernel(t *testing.T) {
	r := newResolver(t, Config{})
	c := startContainer(t, "init", newPIDNS)
	r.ancestry.parent = func(int) (int, uint64, error) { return -1, 0, unix.EPERM }
	_, err := r.Outermost(c.pid)
	wantErr(t, "Outermost", err, unix.EPERM)
	_, err = r.Resolve(c.pid)
	wantErr(t, "Resolve", err, unix.EPERM)
}

// TestNamespacesOfOneContainerDoNotEvictOthers: a container that makes more
// namespaces than its share loses its own.
func TestNamespacesOfOneContainerDoNotEvictOthers(t *testing.T) {
	var idle []uint64
	r := newResolver(t, Config{Max: 2 * minShare, Idle: func(ns uint64) { idle = append(idle, ns) }})
	victim := startContainer(t, "init", newPIDNS)
	resolve(t, r, victim.pid, victim.pid)
	crowd := startCrowd(t, "crowd", minShare+8)
	kids := childrenOf(crowd.pid)
	if len(kids) != minShare+8 {
		t.Fatalf("%d children, want %d", len(kids), minShare+8)
	}
	before := len(openFiles())
	for _, kid := range kids {
		resolve(t, r, kid, kid)
	}
	if n := len(openFiles()) - before; n != 2*minShare {
		t.Errorf("%d descriptors for the namespaces of one container, want %d", n, 2*minShare)
	}
	if _, ok, err := r.Lookup(victim.pid); !ok || err != nil {
		t.Errorf("the other container is not cached any more: %v, %v", ok, err)
	}
	if len(idle) != 8 || slices.Contains(idle, nsOf(t, victim.pid)) {
		t.Errorf("Idle was called for %d, want the first 8 of %v", idle, kids)
	}
}
