// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"testing"

	"vprocfs/internal/attach"
)

// scriptedAttacher has an outcome for each pid.
type scriptedAttacher map[int]struct {
	results []attach.Result
	err     error
}

func (a scriptedAttacher) Start(pid int, _ uint64, done func([]attach.Result, error)) {
	go done(a[pid].results, a[pid].err)
}

func (a scriptedAttacher) AttachAlone(_ context.Context, pid int, _ uint64) ([]attach.Result, error) {
	return a[pid].results, a[pid].err
}

func TestStatusSaysWhatBecameOfContainers(t *testing.T) {
	p, err := newProc("/proc")
	if err != nil {
		t.Fatal(err)
	}
	failed := []attach.Result{{Target: "/proc/stat", State: attach.Failed, Err: errors.New("no room")}}
	own := os.Getpid()
	late := uint64(0)
	if p.runsOwnProgram(own) {
		late = 1 // a guest of Linux 5.10 reports two mounts
	}
	w := &watcher{Config: config(Rules{}, scriptedAttacher{
		own: {}, 2: {err: attach.ErrNotPivoted}, 3: {results: failed}, 4: {err: errors.New("x")}, 5: {err: errors.New("the last")},
	}, io.Discard), proc: p, retries: newRetries(func() {})}
	w.Log = slog.New(slog.DiscardHandler)
	for _, j := range []job{{pid: own}, {pid: own, started: true}, {pid: 2}, {pid: 3}, {pid: 4}, {pid: 5, alone: true}} {
		ended := make(chan bool)
		w.attach(t.Context(), j, func(hung bool) { ended <- hung })
		if <-ended {
			t.Errorf("the job of %d hung", j.pid)
		}
	}
	w.Owner = func(int) (uint64, error) { return 1, nil }
	block := make(chan struct{})
	w.queue = newQueue(async(func(job) bool { <-block; return false }))
	w.Stats.setQueue(w.queue)
	for range maxWaitingOwner + maxRunningOwner + 1 {
		w.attachLater(job{pid: own})
	}
	s := w.Stats.Status()
	want := map[Reason]uint64{NotPivoted: 1, Files: 1, Other: 2, QueueFull: 1}
	if s.Attached != 2 || s.Late != late || !maps.Equal(s.Refused, want) {
		t.Errorf("%+v, want %d late, refused %v", s, late, want)
	}
	if s.Queue != maxWaitingOwner || s.Running != maxRunningOwner || s.LastError != errQueueFull.Error() || s.LastErrorAt.IsZero() {
		t.Errorf("%+v", s)
	}
	s.Refused[Other] = 99
	if w.Stats.Status().Refused[Other] != 2 {
		t.Error("a status shares its numbers with the next")
	}
	close(block)
	w.queue.wait()
}

// TestProgramOfAContainerIsToldFromItsRuntime by the mount of the file that it executes.
func TestProgramOfAContainerIsToldFromItsRuntime(t *testing.T) {
	p, err := newProc("/proc")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-euc", `echo begun; read line
mount -t tmpfs none /mnt; mkdir /mnt/old; cd /mnt; pivot_root . old; echo pivoted; read line`)
	cmd.SysProcAttr = newNamespaces()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	for _, tt := range []struct {
		line string
		own  bool
	}{{"begun", true}, {"pivoted", false}} {
		var line string
		if _, err := fmt.Fscanln(out, &line); err != nil || line != tt.line {
			t.Fatalf("%q, %v", line, err)
		}
		if own := p.runsOwnProgram(cmd.Process.Pid); own != tt.own {
			t.Errorf("%s: its own program: %v", line, own)
		}
		fmt.Fprintln(in)
	}
	if p.runsOwnProgram(1 << 22) {
		t.Error("a process that has ended runs a program")
	}
}
