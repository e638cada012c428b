// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
	"vprocfs/internal/shm"
	"vprocfs/procvirt/psi"
)

// triggerGroup makes a v2 control group until the test ends.
func triggerGroup(t *testing.T) string {
	t.Helper()
	mounts, err := mountinfo.Load("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if m.FSType != "cgroup2" {
			continue
		}
		dir := filepath.Join(m.Point, fmt.Sprintf("vprocfs-trigger-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Rmdir(dir); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	t.Fatal("no cgroup2 file system is mounted")
	return ""
}

// placeIn is where triggers are set in a group, for a container.
func placeIn(group string, owner uint64) TriggerPlace {
	return TriggerPlace{File: group + "/cpu.pressure", Group: group, Owner: owner}
}

// triggersAt makes Triggers that are all set at the place that *at is.
func triggersAt(t *testing.T, at *TriggerPlace, saved *shm.Table) (*Triggers, *[]uint64) {
	t.Helper()
	woken := new([]uint64)
	tr := newTriggers(TriggerConfig{
		Max: psi.MaxTriggers, Saved: saved, Log: slog.New(slog.DiscardHandler),
		Wake: func(waiter uint64) error { *woken = append(*woken, waiter); return nil },
	}, "/proc", func(TriggerRequest) (TriggerPlace, error) { return *at, nil })
	return tr, woken
}

// write is a trigger that everybody may set, by request id on an open file.
func write(id, handle uint64) TriggerRequest {
	return TriggerRequest{ID: id, Handle: handle, PID: os.Getpid(), UID: 1234, Text: []byte("some 100000 2000000")}
}

// savedTable makes a table, and returns a function that opens it as the next process
// does.
func savedTable(t *testing.T) (table *shm.Table, reopen func() *shm.Table) {
	t.Helper()
	table, err := shm.New("triggers", TriggerFormat())
	if err != nil {
		t.Fatal(err)
	}
	return table, func() *shm.Table {
		fd, err := unix.Dup(table.FD())
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
		if table, err = shm.Open(fd, TriggerFormat()); err != nil {
			t.Fatal(err)
		}
		return table
	}
}

// TestNestedNamespacesShareTheirContainersTriggers: whatever pid namespaces and
// control groups a container makes, it has no more than its share.
func TestNestedNamespacesShareTheirContainersTriggers(t *testing.T) {
	groups := []string{triggerGroup(t), triggerGroup(t), triggerGroup(t)}
	var at TriggerPlace
	tr, _ := triggersAt(t, &at, nil)
	defer tr.Close()
	for i := range uint64(psi.MaxPerOwner) {
		at = placeIn(groups[i%2], 7)
		if err := tr.Set(write(i+1, i+1)); err != nil {
			t.Fatalf("trigger %d: %v", i+1, err)
		}
	}
	at = placeIn(groups[2], 7)
	if err := tr.Set(write(100, 100)); !errors.Is(err, unix.EBUSY) {
		t.Errorf("one more, in a group of its own: %v", err)
	}
	at = placeIn(groups[2], 8)
	if err := tr.Set(write(101, 101)); err != nil {
		t.Errorf("another container: %v", err)
	}
	// A program of the host is accounted by its control group.
	for i := range uint64(psi.MaxPerOwner) {
		at = placeIn(groups[2], 0)
		err := tr.Set(write(200+i, 200+i))
		if want := i == psi.MaxPerOwner-1; errors.Is(err, unix.EBUSY) != want || err != nil != want {
			t.Errorf("trigger %d beside one of the same group: %v", i+2, err)
		}
	}
}

func TestTriggersOutliveTheProcess(t *testing.T) {
	at := placeIn(triggerGroup(t), 7)
	table, reopen := savedTable(t)
	tr, _ := triggersAt(t, &at, table)
	for i := range uint64(3) {
		if err := tr.Set(write(10+i, 1+i)); err != nil {
			t.Fatal(err)
		}
	}
	tr.Poll(1, 77, unix.EPOLLPRI)
	tr.Release(3)
	tr.Close()

	// The worker was killed after it had set a trigger and before it replied: the
	// request is executed again, and finds it.
	tr, woken := triggersAt(t, &at, reopen())
	if len(*woken) != 1 || (*woken)[0] != 77 {
		t.Errorf("woken: %v, want the one that waits", *woken)
	}
	if err := tr.Set(write(11, 2)); err != nil {
		t.Errorf("the request that set the trigger, executed again: %v", err)
	}
	if err := tr.Set(write(50, 2)); !errors.Is(err, unix.EBUSY) {
		t.Errorf("another request on the same file: %v", err)
	}
	if got := tr.Poll(3, 0, unix.EPOLLPRI); got&unix.EPOLLERR == 0 {
		t.Errorf("the released one: %#x", got)
	}
	tr.Release(1)
	tr.Close()

	tr, _ = triggersAt(t, &at, reopen())
	defer tr.Close()
	for handle, want := range map[uint64]bool{1: false, 2: true, 3: false} {
		if got := tr.Poll(handle, 0, unix.EPOLLPRI)&unix.EPOLLERR == 0; got != want {
			t.Errorf("trigger of file %d is there: %v, want %v", handle, got, want)
		}
	}
}

func TestTriggerOfARemovedGroupIsLostWithTheProcess(t *testing.T) {
	group := t.TempDir() + "/group"
	at := placeIn(group, 7)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	table, reopen := savedTable(t)
	saved := savedTriggers{table}
	saved.Keep(psi.Record{Handle: 1, Waiter: 5, File: at.File, Trigger: psi.Trigger{Threshold: 1, Window: 2_000_000}})
	tr, woken := triggersAt(t, &at, reopen())
	tr.Close()
	if len(*woken) != 1 || (*woken)[0] != 5 {
		t.Errorf("woken: %v, want the one that waits", *woken)
	}
	tr, woken = triggersAt(t, &at, reopen())
	tr.Close()
	if len(*woken) != 0 {
		t.Errorf("woken: %v, though the trigger was lost before", *woken)
	}
}
