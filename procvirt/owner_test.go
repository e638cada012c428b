// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

// addProcess makes a process of the fixture that started when the init did.
func addProcess(t *testing.T, h *fixture.Host, pid int) {
	t.Helper()
	dir := filepath.Join(h.Root, "proc", fmt.Sprint(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stat", "cgroup"} {
		text := h.Read(t, fmt.Sprintf("proc/%d/%s", h.Init, name))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// namespaces has one owner make pid namespaces from first to last, each of which reads
// uptime once.
func namespaces(t *testing.T, b *busy, owner, first, last uint64) {
	t.Helper()
	for ns := first; ns <= last; ns++ {
		s := *b.s
		s.NS, s.Owner = ns, owner
		b.now++
		render(t, b.r, "uptime", &s)
	}
}

// TestAnOwnerEvictsOnlyItsOwn guards the accounts of others, and the memory of this
// process, from a container that makes pid namespaces without end.
func TestAnOwnerEvictsOnlyItsOwn(t *testing.T) {
	b := newBusy(t, nil)
	before := b.seconds()
	quiet := b.r.spaces[b.s.NS]
	const noisy = 7
	files := 0
	for round := range uint64(4) {
		namespaces(t, b, noisy, 1000+round*maxOwned, 1000+round*maxOwned+maxOwned-1)
		if round == 1 {
			files = b.r.OpenFiles()
		}
	}
	if n := len(b.r.owners[noisy].spaces); n > maxOwned {
		t.Errorf("%d namespaces of one owner are kept", n)
	}
	if n := len(b.r.spaces); n > maxOwned+1 {
		t.Errorf("%d namespaces are kept", n)
	}
	if n := b.r.OpenFiles(); n > files+20 {
		t.Errorf("%d files are open, %d before", n, files)
	}
	if b.r.spaces[b.s.NS] != quiet || b.seconds() != before {
		t.Error("the container of another was dropped")
	}
	// those that were used last stay
	if b.r.spaces[1000+4*maxOwned-1] == nil {
		t.Error("the namespace that was used last was dropped")
	}
}

func TestTheEndOfAnOwnerEndsAllOfIt(t *testing.T) {
	b := newBusy(t, nil)
	files := b.r.OpenFiles()
	const outer = 999
	namespaces(t, b, outer, outer, outer+20)
	b.r.drop(outer)
	if len(b.r.spaces) != 0 || len(b.r.owners) != 0 || b.r.OpenFiles() != files {
		t.Errorf("%d namespaces of %d owners, %d files, want %d", len(b.r.spaces), len(b.r.owners), b.r.OpenFiles(), files)
	}
}

// TestNamespacesWhoseEndWasMissedAreSweptAway guards those that the resolver has
// forgotten before they ended.
func TestNamespacesWhoseEndWasMissedAreSweptAway(t *testing.T) {
	b := newBusy(t, nil)
	const init = 654321
	addProcess(t, b.h, init)
	b.s.Init = init
	namespaces(t, b, 7, 1000, 1000+firstSweep-2)
	if err := os.RemoveAll(filepath.Join(b.h.Root, "proc", fmt.Sprint(init))); err != nil {
		t.Fatal(err)
	}
	b.s.Init = b.h.Init
	namespaces(t, b, 7, 2000, 2001)
	if n := len(b.r.spaces); n > 2 {
		t.Errorf("%d namespaces are kept, want the 2 that live", n)
	}
}

// TestAHeldContainerIsNotEvicted guards requests that take long.
func TestAHeldContainerIsNotEvicted(t *testing.T) {
	b := newBusy(t, nil)
	b.s.Owner = 7
	c, err := b.r.Acquire(pidOf(t, b.r, b.s), &fakeTurn{})
	if err != nil {
		t.Fatal(err)
	}
	namespaces(t, b, 7, 1000, 1000+maxOwned+maxOwned/16)
	if c.space.dropped || c.ended || b.r.spaces[b.s.NS] != c.space {
		t.Error("dropped while a request holds it")
	}
	c.Release()
	namespaces(t, b, 7, 3000, 3000+maxOwned)
	if b.r.spaces[b.s.NS] != nil {
		t.Error("kept although it was not used for longest")
	}
}

// TestOneOwnerDoesNotTakeAllFiles is about an owner with many containers: others keep
// their files open.
func TestOneOwnerDoesNotTakeAllFiles(t *testing.T) {
	b := newBusy(t, func(c *Config) { c.MaxFiles = 200 })
	render(t, b.r, "uptime", b.s)
	namespaces(t, b, 7, 1000, 1100)
	if n := b.r.owners[7].opener.Count(); n > 100+10 {
		t.Errorf("%d files are open for one owner", n)
	}
	if blocks(t, b.r, "uptime", b.s) {
		t.Error("files of another owner were closed")
	}
}

// TestFilesThatThereIsRoomForStayOpen: many containers read in turn, of which two in three
// may have their files open.
func TestFilesThatThereIsRoomForStayOpen(t *testing.T) {
	const containers, share = 96, 64
	var b *busy
	read := func() (cold int) {
		for i := range uint64(containers) {
			b.now += int64(10 * time.Millisecond)
			s := *b.s
			s.NS, s.Owner = 1000+i, 1000+i
			if blocks(t, b.r, "uptime", &s) {
				cold++
			}
		}
		return cold
	}
	b = newBusy(t, nil)
	before := b.r.OpenFiles()
	read()
	each := (b.r.OpenFiles() - before) / containers
	b = newBusy(t, func(c *Config) { c.MaxFiles = before + share*each })
	for range 4 {
		read()
	}
	// A sixteenth of all is closed at once, and the files that tell decisions stay open.
	if cold := read(); cold > containers-share+share/4 {
		t.Errorf("%d of %d containers found their files closed: there is room for %d", cold, containers, share)
	}
	b.now += busyFor // they read no more
	s := *b.s
	for range 3 {
		for i := range uint64(share / 2) {
			b.now += int64(10 * time.Millisecond)
			s.NS, s.Owner = 2000+i, 2000+i
			render(t, b.r, "uptime", &s)
		}
	}
	for i := range uint64(share / 2) {
		if s.NS, s.Owner = 2000+i, 2000+i; blocks(t, b.r, "uptime", &s) {
			t.Errorf("the files of newcomer %d are closed, for containers that read no more", i)
		}
	}
}

func TestBlockTellsTheOwner(t *testing.T) {
	b := newBusy(t, nil)
	b.s.Owner = 42
	for range 2 { // cold and warm
		var turn fakeTurn
		c, err := b.r.Acquire(pidOf(t, b.r, b.s), &turn)
		if err != nil || turn.owner != 42 {
			t.Fatalf("%v, owner %d", err, turn.owner)
		}
		if _, err := c.Append(nil, fileNamed(t, b.r, "uptime")); err != nil {
			t.Fatal(err)
		}
		c.Release()
	}
}

// TestAPanicLeavesNoLockHeld has each step on the way of a request panic.
func TestAPanicLeavesNoLockHeld(t *testing.T) {
	for step := range 12 {
		b := newBusy(t, nil)
		if step >= 6 {
			render(t, b.r, "uptime", b.s) // warm
		}
		f := *fileNamed(t, b.r, "uptime")
		turn := &panickyTurn{}
		inits := b.r.inits.(*fakeInits)
		pid := pidOf(t, b.r, b.s)
		undo := func() {}
		switch step % 6 {
		case 0:
			turn.at = 1
		case 1:
			turn.at = 2
		case 2:
			inits.resolve = func(int) error { panic("resolve") }
			undo = func() { inits.resolve = nil }
		case 3, 4:
			broken := &brokenNumbers{inAppend: step%6 == 4}
			f.numbers = func() numbers { return broken }
			f.pool = newPool(&f)
		case 5:
			now := b.r.cfg.Now
			calls := 0
			b.r.cfg.Now = func() int64 {
				if calls++; calls == 1+step/6 {
					panic("clock")
				}
				return now()
			}
			undo = func() { b.r.cfg.Now = now }
		}
		func() {
			defer func() { _ = recover() }()
			_, _ = appendFile(b.r, nil, &f, pid, turn)
		}()
		undo()
		done := make(chan []byte)
		go func() {
			text, err := appendFile(b.r, nil, fileNamed(t, b.r, "uptime"), pid, &fakeTurn{})
			if err != nil {
				t.Errorf("step %d: %v", step, err)
			}
			b.r.drop(b.s.NS) // takes all locks for writing
			done <- text
		}()
		select {
		case text := <-done:
			if bytes.Equal(text, b.h.Read(t, "proc/uptime")) {
				t.Errorf("step %d: the host's uptime", step)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("step %d: a lock is held", step)
		}
	}
}

// panickyTurn panics when it blocks for the at-th time.
type panickyTurn struct{ at, blocked int }

func (t *panickyTurn) Block(uint64) error {
	if t.blocked++; t.blocked == t.at {
		panic("block")
	}
	return nil
}

func (*panickyTurn) SetOwner(uint64) {}

func (*panickyTurn) Delay(uint64, time.Duration) error { return nil }

// brokenNumbers panics while it gathers, or while it appends.
type brokenNumbers struct{ inAppend bool }

func (*brokenNumbers) reset() {}

func (n *brokenNumbers) gather(*Container) error {
	if !n.inAppend {
		panic("gather")
	}
	return nil
}

func (n *brokenNumbers) append([]byte) []byte { panic("append") }

// TestGroupsOfOneOwnerAreBounded guards memory from a container that makes groups in
// each of many pid namespaces.
func TestGroupsOfOneOwnerAreBounded(t *testing.T) {
	b := newBusy(t, func(c *Config) { c.Policy = cgroup.Caller })
	var groups [][]byte
	for i := range maxCallers {
		sub := fmt.Sprintf("machine/ct1/%d", i)
		if err := os.Mkdir(filepath.Join(b.h.Root, "sys/fs/cgroup", sub), 0o755); err != nil {
			t.Fatal(err)
		}
		groups = append(groups, []byte("0::/"+sub+"\n"))
	}
	s := *b.s
	s.Owner = 7
	const spaces = 2 * maxOwnedStates / maxCallers
	for ns := range uint64(spaces) {
		s.NS = 1000 + ns
		for _, s.Groups = range groups {
			render(t, b.r, "slabinfo", &s)
		}
	}
	kept := 0
	for sp := range b.r.owners[7].spaces {
		kept += len(sp.containers)
	}
	if n := b.r.owners[7].states.Load(); int(n) != kept || kept > maxOwnedStates+maxCallers+spaces*(fewCallers+1) {
		t.Errorf("%d containers are kept, %d counted", kept, n)
	}
	b.r.drop(7)
}
