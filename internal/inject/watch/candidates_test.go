// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newNamespaces has a command run in pid and mount namespaces of its own.
func newNamespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Unshareflags: unix.CLONE_NEWNS}
}

func testPoller(t *testing.T) *poller {
	t.Helper()
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func TestCandidatesAreGivenUp(t *testing.T) {
	c := newCandidates(t.TempDir(), testPoller(t))
	now := time.Now()
	c.add(7, true, now) // has no mountinfo, so the waits tell when to look
	looks := 0
	for begin := now; ; looks++ {
		due, ok := c.next()
		if !ok {
			break
		}
		if due.Before(now) || due.Sub(begin) > 10*time.Second {
			t.Fatalf("look %d is due after %s", looks, due.Sub(begin))
		}
		now = due
		if early := c.expired(now.Add(-1)); len(early) > 0 {
			t.Fatal("a candidate is due early")
		}
		for _, p := range c.expired(now) {
			if !p.retry(now) {
				c.drop(p.pid)
			}
		}
	}
	if looks != len(waits) {
		t.Errorf("%d looks, want %d", looks, len(waits))
	}
}

func TestCandidatesAreBounded(t *testing.T) {
	c := newCandidates(t.TempDir(), testPoller(t))
	for pid := range maxCandidates {
		if !c.add(pid, false, time.Now()) {
			t.Fatalf("candidate %d is refused", pid)
		}
	}
	if c.add(maxCandidates, false, time.Now()) {
		t.Error("there is no bound")
	}
	if !c.add(0, false, time.Now()) {
		t.Error("a candidate that is known is refused")
	}
	c.drop(0)
	if !c.add(maxCandidates, false, time.Now()) {
		t.Error("what is given up counts")
	}
}

// TestChangeOfTheRootIsNoticed: pivot_root(2) by a candidate that is followed is reported, and
// says to look at once. Other mounts wait until they settle.
func TestChangeOfTheRootIsNoticed(t *testing.T) {
	poll := testPoller(t)
	c := newCandidates("/proc", poll)
	cmd := exec.Command("sh", "-euc", `echo begun; read line
mount -t tmpfs none /mnt; echo mounted; read line
mkdir /mnt/old; cd /mnt; pivot_root . old; echo pivoted; read line`)
	cmd.SysProcAttr = newNamespaces()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		cmd.Wait()
	}()
	said := func(want string) {
		t.Helper()
		var got string
		if _, err := fmt.Fscanln(out, &got); err != nil || got != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	said("begun")
	now := time.Now()
	c.add(cmd.Process.Pid, true, now)
	p := c.byPID[cmd.Process.Pid]
	changed := func() (lookNow bool) {
		t.Helper()
		var events [1]unix.EpollEvent
		var n int
		var err error
		for end := time.Now().Add(10 * time.Second); n == 0 && err == nil && time.Now().Before(end); { // a signal ends a wait
			n, err = poll.wait(events[:], end)
		}
		if n != 1 || err != nil || c.byFD[int(events[0].Fd)] != p {
			t.Fatalf("%d events, %v", n, err)
		}
		return c.changed(p, now)
	}
	fmt.Fprintln(in)
	said("mounted")
	if p.due = now.Add(time.Hour); changed() || !p.due.Equal(now.Add(settle)) {
		t.Errorf("a mount: due in %s, want %s", p.due.Sub(now), settle)
	}
	fmt.Fprintln(in)
	said("pivoted")
	var events [1]unix.EpollEvent
	if n, err := poll.wait(events[:], time.Now()); n != 0 || err != nil {
		t.Errorf("%d events during the pause, %v", n, err)
	}
	if due, ok := c.next(); !ok || !due.Equal(now.Add(pause)) {
		t.Errorf("the pause ends in %s, want %s", due.Sub(now), pause)
	}
	if early := c.resume(now); len(early) > 0 {
		t.Error("the pause is over at once")
	}
	if resumed := c.resume(now.Add(pause)); !slices.Equal(resumed, []*candidate{p}) {
		t.Error("a change of the root during the pause is not noticed")
	}
	if resumed := c.resume(now.Add(time.Hour)); len(resumed) > 0 {
		t.Error("what was noticed is reported again")
	}
	c.drop(cmd.Process.Pid)
	if len(c.byFD) > 0 || slices.Contains(openFiles(t), fmt.Sprintf("/proc/%d/mountinfo", cmd.Process.Pid)) {
		t.Error("a descriptor is left open")
	}
}

// openFiles returns the paths of the files that this process has open.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, e := range entries {
		if path, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}
