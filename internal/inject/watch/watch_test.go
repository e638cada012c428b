// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"testing"
	"time"

	"vprocfs/internal/attach"
)

// fakeAttacher records the calls.
type fakeAttacher struct {
	mu       sync.Mutex
	attached map[int]uint64 // mount namespaces by pid
}

func (a *fakeAttacher) Start(pid int, ns uint64, done func([]attach.Result, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.attached == nil {
		a.attached = make(map[int]uint64)
	}
	a.attached[pid] = ns
	go done(nil, nil)
}

func (a *fakeAttacher) AttachAlone(context.Context, int, uint64) ([]attach.Result, error) {
	return nil, errors.New("not expected")
}

func (a *fakeAttacher) has(pid int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attached[pid] != 0
}

// start starts Run, and ends it with the test.
func start(t *testing.T, cfg Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// startProcess starts a process in namespaces of its own that mounts a procfs, and
// returns its pid.
func startProcess(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sh", "-euc", "mount -t proc proc /proc; echo ready; read line")
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
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	return cmd.Process.Pid
}

func config(rules Rules, a Attacher, log io.Writer) Config {
	return Config{
		Dir: "/nowhere", Rules: rules, Attach: a, Log: slog.New(slog.NewTextHandler(log, nil)),
		Owner: func(int) (uint64, error) { return 1, nil }, Stats: new(Stats),
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// TestContainersThatRunAndThatStartAreAttached, with whatever source this kernel has.
func TestContainersThatRunAndThatStartAreAttached(t *testing.T) {
	runs := startProcess(t)
	var a fakeAttacher
	start(t, config(Rules{Attach: []string{"/"}}, &a, t.Output()))
	eventually(t, "the container that runs", func() bool { return a.has(runs) })
	starts := startProcess(t)
	eventually(t, "the container that starts", func() bool { return a.has(starts) })
	if a.attached[runs] == a.attached[starts] {
		t.Error("both have one mount namespace")
	}
}

// TestSandboxIsLeftAlone: the same process, in the cgroup of its parent.
func TestSandboxIsLeftAlone(t *testing.T) {
	var a fakeAttacher
	start(t, config(Rules{}, &a, t.Output()))
	pid := startProcess(t)
	time.Sleep(time.Second)
	if a.has(pid) {
		t.Error("a process that stays in the cgroup of its parent counts as a container")
	}
}
