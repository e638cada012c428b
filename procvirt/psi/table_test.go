// SPDX-License-Identifier: Apache-2.0

package psi

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what takes seconds on a machine that has time.
const patience = 2 * time.Minute

// makeGroup makes a v2 control group until the test ends.
func makeGroup(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if f[2] != "cgroup2" {
			continue
		}
		dir := filepath.Join(f[1], fmt.Sprintf("vprocfs-psi-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			eventually(t, "the group is removed", func() bool {
				err := unix.Rmdir(dir)
				return err == nil || err == unix.ENOENT
			})
		})
		return dir
	}
	t.Fatal("no cgroup2 file system is mounted")
	return ""
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// burn makes the tasks of a group wait for a CPU, until the test ends or stop is
// called.
func burn(t *testing.T, group string) (stop func()) {
	t.Helper()
	var all []*exec.Cmd
	for range runtime.NumCPU() + 1 {
		cmd := exec.Command("sh", "-c", `echo $$ > "$1/cgroup.procs" && while :; do :; done`, "sh", group)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	stop = sync.OnceFunc(func() {
		for _, cmd := range all {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	t.Cleanup(stop)
	return stop
}

// fds counts the files that this process has open.
func fds(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// table returns a table, and what it wakes. No file is left open.
func table(t *testing.T) (*Table, chan uint64) {
	t.Helper()
	before := fds(t)
	woken := make(chan uint64, 100)
	kept := keeper{}
	tab := NewTable(MaxTriggers, func(waiter uint64) { woken <- waiter }, kept)
	t.Cleanup(func() {
		tab.Close()
		if after := fds(t); after != before {
			t.Errorf("%d files are open, %d were", after, before)
		}
		if len(tab.entries) != 0 || len(tab.owners) != 0 || tab.open != 0 {
			t.Errorf("the table has %d entries and %d owners, %d open files", len(tab.entries), len(tab.owners), tab.open)
		}
	})
	return tab, woken
}

// keeper keeps records by handle.
type keeper map[uint64]Record

func (k keeper) Keep(r Record)        { k[r.Handle] = r }
func (k keeper) Forget(handle uint64) { delete(k, handle) }

// kept returns the record of a handle that the table's keeper has.
func kept(t *Table, handle uint64) (Record, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.keeper.(keeper)[handle]
	return r, ok
}

func yes() error { return nil }

// record is a trigger that every process may set.
func record(handle uint64, group string, owners ...string) Record {
	r := Record{Handle: handle, File: group + "/cpu.pressure", Trigger: Trigger{Threshold: 100_000, Window: 2_000_000}}
	copy(r.Owners[:], owners)
	return r
}

func TestAnEventIsToldOnceAndKeptUntilThen(t *testing.T) {
	group := makeGroup(t)
	tab, woken := table(t)
	if err := tab.Set(record(1, group, "a"), yes); err != nil {
		t.Fatal(err)
	}
	if got := tab.Poll(1, 77, unix.EPOLLPRI); got != quiet {
		t.Fatalf("at first: %#x", got)
	}
	stop := burn(t, group)
	select {
	case w := <-woken:
		if w != 77 {
			t.Fatalf("woken: %d", w)
		}
	case <-time.After(patience):
		t.Fatal("no event")
	}
	stop()
	time.Sleep(5 * time.Second) // longer than another event of the same stall could take
	// Who does not ask for it does not take it.
	for _, c := range []struct {
		asked, want uint32
	}{{unix.EPOLLIN, quiet}, {unix.EPOLLIN | unix.EPOLLPRI, quiet | unix.EPOLLPRI}, {unix.EPOLLPRI, quiet}} {
		if got := tab.Poll(1, 0, c.asked); got != c.want {
			t.Errorf("asked for %#x: %#x, want %#x", c.asked, got, c.want)
		}
	}
	if len(woken) != 0 {
		t.Error("woken twice for one wish")
	}
}

func TestWithoutATriggerPollSaysSo(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	if got := tab.Poll(1, 5, unix.EPOLLPRI); got != none {
		t.Errorf("no trigger: %#x", got)
	}
	if err := tab.Set(record(1, group), yes); err != nil {
		t.Fatal(err)
	}
	tab.Release(1)
	tab.Release(1)
	if got := tab.Poll(1, 5, unix.EPOLLPRI); got != none {
		t.Errorf("after its end: %#x", got)
	}
}

func TestARemovedGroupIsAnError(t *testing.T) {
	group := makeGroup(t)
	tab, woken := table(t)
	if err := tab.Set(record(1, group), yes); err != nil {
		t.Fatal(err)
	}
	if got := tab.Poll(1, 9, unix.EPOLLPRI); got != quiet {
		t.Fatalf("at first: %#x", got)
	}
	if err := unix.Rmdir(group); err != nil {
		t.Fatal(err)
	}
	select {
	case <-woken:
	case <-time.After(patience):
		t.Fatal("nobody is told")
	}
	for range 2 {
		if got := tab.Poll(1, 9, unix.EPOLLPRI); got != none {
			t.Errorf("poll: %#x, want %#x", got, none)
		}
	}
	if err := tab.Set(record(1, group), yes); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second trigger: %v", err)
	}
	if err := tab.Set(record(2, group), func() error { return unix.ENODEV }); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a trigger on it: %v", err)
	}
	if err := tab.Set(record(2, group), yes); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("a trigger on a group without pressure: %v", err)
	}
}

func TestASecondTriggerOfAHandleIsRefused(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	if err := tab.Set(record(1, group), yes); err != nil {
		t.Fatal(err)
	}
	if err := tab.Set(record(1, group), yes); !errors.Is(err, unix.EBUSY) {
		t.Errorf("second: %v", err)
	}
	if got := tab.Poll(1, 0, 0); got != quiet {
		t.Errorf("the first: %#x", got)
	}
}

// TestRequestThatIsExecutedAgainFindsItsTrigger: a worker was killed after it had set
// a trigger and before it replied. The next one restores the trigger and executes the
// request again.
func TestRequestThatIsExecutedAgainFindsItsTrigger(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	r := record(1, group, "a")
	r.Request = 5
	for range 2 {
		if err := tab.Set(r, yes); err != nil {
			t.Fatal(err)
		}
	}
	for what, other := range map[string]func(r *Record){
		"another request":          func(r *Record) { r.Request = 6 },
		"a request without number": func(r *Record) { r.Request = 0 },
		"another trigger":          func(r *Record) { r.Trigger.Threshold++ },
	} {
		again := r
		other(&again)
		if err := tab.Set(again, yes); !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestKeeperHasTheTriggersThatAreSet(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	r := record(1, group, "a")
	if err := tab.Set(r, yes); err != nil {
		t.Fatal(err)
	}
	if got, ok := kept(tab, 1); !ok || got != r {
		t.Errorf("after Set: %+v, %v", got, ok)
	}
	r.Waiter = 77
	tab.Poll(1, 77, unix.EPOLLPRI)
	if got, ok := kept(tab, 1); !ok || got != r {
		t.Errorf("after Poll: %+v, %v", got, ok)
	}
	tab.Release(1)
	if got, ok := kept(tab, 1); ok {
		t.Errorf("after Release: %+v", got)
	}
	// One that cannot be set is not kept, and neither is one whose handle is
	// closed while it is set.
	if err := tab.Set(record(2, group), func() error { return unix.ENODEV }); err == nil {
		t.Error("no error")
	}
	if err := tab.Set(record(3, group), func() error { tab.Release(3); return nil }); err != nil {
		t.Error(err)
	}
	for _, handle := range []uint64{2, 3} {
		if got, ok := kept(tab, handle); ok {
			t.Errorf("handle %d: %+v is kept", handle, got)
		}
	}
}

// TestAGroupThatIsAnothersByNowGetsNoTrigger: verify is called after the file is open.
func TestAGroupThatIsAnothersByNowGetsNoTrigger(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	if err := tab.Set(record(1, group, "a"), func() error { return unix.ENODEV }); !errors.Is(err, unix.ENODEV) {
		t.Errorf("%v", err)
	}
	if got := tab.Poll(1, 0, 0); got != none {
		t.Errorf("poll: %#x", got)
	}
	// A link is no file of a control group.
	link := t.TempDir()
	if err := os.Symlink(group+"/cpu.pressure", link+"/cpu.pressure"); err != nil {
		t.Fatal(err)
	}
	if err := tab.Set(record(1, link, "a"), yes); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: %v", err)
	}
}

func TestOwnersHaveLimitsOfTheirOwn(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	handle := uint64(0)
	set := func(owners ...string) error {
		handle++
		return tab.Set(record(handle, group, owners...), yes)
	}
	for range MaxPerOwner {
		if err := set("a", "x"); err != nil {
			t.Fatal(err)
		}
	}
	for _, owners := range [][]string{{"a"}, {"", "x"}, {"b", "x"}, {"a", "y"}} {
		if err := set(owners...); !errors.Is(err, unix.EBUSY) {
			t.Errorf("one more of %q: %v", owners, err)
		}
	}
	if err := set("b", "y"); err != nil {
		t.Errorf("another owner: %v", err)
	}
	tab.Release(1)
	if err := set("a", "x"); err != nil {
		t.Errorf("in the place of one that is closed: %v", err)
	}
}

func TestThereAreOnlySoManyInAll(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < MaxTriggers+100 {
		t.Fatalf("only %d files may be open here", limit.Cur)
	}
	for i := range uint64(MaxTriggers) {
		if err := tab.Set(record(i+1, group, fmt.Sprint(i/MaxPerOwner)), yes); err != nil {
			t.Fatalf("trigger %d: %v", i+1, err)
		}
	}
	if err := tab.Set(record(MaxTriggers+1, group, "new"), yes); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("one more: %v", err)
	}
}

// TestManyQuickRoundsNeverFail: what is closed may take its time, but the program
// has closed it.
func TestManyQuickRoundsNeverFail(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	for i := range uint64(1000) {
		if err := tab.Set(record(i+1, group, "a"), yes); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		tab.Release(i + 1)
	}
}

// TestAHandleThatIsReleasedWhileItsTriggerIsMade leaves nothing behind.
func TestAHandleThatIsReleasedWhileItsTriggerIsMade(t *testing.T) {
	group := makeGroup(t)
	tab, _ := table(t)
	err := tab.Set(record(1, group, "a"), func() error {
		tab.Release(1)
		return nil
	})
	if err != nil {
		t.Errorf("%v", err)
	}
	if got := tab.Poll(1, 0, 0); got != none {
		t.Errorf("poll: %#x", got)
	}
}

// TestTheTableStandsRaces has handles set, polled and released by many at once,
// while the group comes and goes.
func TestTheTableStandsRaces(t *testing.T) {
	groups := []string{makeGroup(t), makeGroup(t)}
	tab, woken := table(t)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-woken:
			case <-done:
				return
			}
		}
	}()
	defer close(done)
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			for i := range uint64(200) {
				handle := 1 + i%5
				err := tab.Set(record(handle, groups[g%2], fmt.Sprint(g%4)), yes)
				if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENODEV) {
					t.Errorf("set: %v", err)
				}
				tab.Poll(handle, g+1, unix.EPOLLPRI)
				tab.Release(handle)
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			unix.Rmdir(groups[1])
			unix.Mkdir(groups[1], 0o755)
		}
	})
	wg.Wait()
}
