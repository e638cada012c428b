// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"
)

func TestPolicyOfAnnotations(t *testing.T) {
	type notes = map[string]string
	for name, tt := range map[string]struct {
		pod, container notes
		want           []string
	}{
		"none":                          {notes{"a/b": "c"}, notes{"vprocfs.example/cpu": "quota"}, nil},
		"pod":                           {notes{"vprocfs.io/view": "off", "vprocfs.io/cpu": "request"}, nil, []string{"cpu=request", "view=off"}},
		"container before pod":          {notes{"vprocfs.io/cpu": "request"}, notes{"vprocfs.io/cpu": "cpuset"}, []string{"cpu=cpuset"}},
		"named container before both":   {notes{"vprocfs.io/cpu.web": "quota", "vprocfs.io/cpu": "request"}, notes{"vprocfs.io/cpu": "cpuset"}, []string{"cpu=quota"}},
		"another container":             {notes{"vprocfs.io/cpu.db": "quota"}, nil, nil},
		"a container names no other":    {nil, notes{"vprocfs.io/cpu.web": "quota"}, nil},
		"checked where they are set":    {notes{"vprocfs.io/colour": "blue"}, nil, []string{"colour=blue"}},
		"a pod that is not known (nil)": {nil, notes{"vprocfs.io/swap": "off"}, []string{"swap=off"}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // maps have no order
				got := policyWords(&api.PodSandbox{Annotations: tt.pod}, &api.Container{Name: "web", Annotations: tt.container})
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Fatal(d)
				}
			}
		})
	}
	if got := policyWords(nil, &api.Container{}); got != nil {
		t.Errorf("%q", got)
	}
}

// fake is a plugin that records what it does.
type fake struct {
	plugin
	mu       sync.Mutex
	attached []int
	policies []string
	log      strings.Builder
}

func (f *fake) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(b)
}

func (f *fake) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func (f *fake) pids() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.attached))
}

func newFake() *fake {
	f := new(fake)
	f.plugin = plugin{
		attach: func(_ context.Context, pid int) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.attached = append(f.attached, pid)
			return nil
		},
		setPolicy: func(_ int, words []string) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.policies = append(f.policies, strings.Join(words, " "))
			return nil
		},
		limit: time.Minute, running: make(chan struct{}, syncWorkers), log: slog.New(slog.NewTextHandler(f, nil)),
	}
	return f
}

func TestStartAttachesTheView(t *testing.T) {
	f := newFake()
	pod := &api.PodSandbox{Annotations: map[string]string{"vprocfs.io/cpu": "request"}}
	if err := f.StartContainer(context.Background(), pod, &api.Container{Pid: 7}); err != nil {
		t.Error(err)
	}
	if !slices.Equal(f.pids(), []int{7}) || !slices.Equal(f.policies, []string{"cpu=request"}) || f.text() != "" {
		t.Errorf("%v, %q, %s", f.pids(), f.policies, f.text())
	}
}

// TestViewOffIsAPolicyToo is about a daemon that attaches every container by itself.
func TestViewOffIsAPolicyToo(t *testing.T) {
	f := newFake()
	if err := f.StartContainer(context.Background(), nil, &api.Container{Pid: 7, Annotations: map[string]string{"vprocfs.io/view": "off"}}); err != nil {
		t.Error(err)
	}
	if len(f.pids()) > 0 || !slices.Equal(f.policies, []string{"view=off"}) {
		t.Errorf("%v, %q", f.pids(), f.policies)
	}
}

func TestStartNeverFailsNorWaits(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	for name, tt := range map[string]struct {
		change func(*fake)
		pid    uint32
		want   string
	}{
		"attach fails": {func(f *fake) { f.attach = func(context.Context, int) error { return errors.New("dead daemon") } }, 7, `error="dead daemon"`},
		"attach hangs": {func(f *fake) { f.attach = func(context.Context, int) error { <-hang; return nil } }, 7, `error="not attached within 10ms"`},
		"policy hangs": {func(f *fake) { f.setPolicy = func(int, []string) error { <-hang; return nil } }, 7, `error="not attached within 10ms"`},
		"policy wrong": {func(f *fake) {
			f.setPolicy = func(int, []string) error { return errors.New("unknown word") }
			f.limit = time.Minute
		}, 7, `policy="[cpu=x]" error="unknown word"`},
		"no pid":        {func(*fake) {}, 0, "does not tell the pid"},
		"context ended": {func(f *fake) { f.attach = func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() } }, 7, "error="},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.limit = 10 * time.Millisecond
			tt.change(f)
			c := &api.Container{Pid: tt.pid, Name: "web", Annotations: map[string]string{"vprocfs.io/cpu": "x"}}
			if err := f.StartContainer(context.Background(), &api.PodSandbox{Name: "p"}, c); err != nil {
				t.Error(err)
			}
			if log := f.text(); strings.Count(log, "\n") != 1 || !strings.Contains(log, tt.want) || !strings.Contains(log, "pod=p container=web") {
				t.Errorf("log %q, want one line with %q", log, tt.want)
			}
		})
	}
}

func TestSynchronizeAttachesWhatRuns(t *testing.T) {
	f := newFake()
	first := make(chan struct{})
	record := f.attach
	f.attach = func(ctx context.Context, pid int) error { <-first; return record(ctx, pid) }
	ctx, cancel := context.WithCancel(context.Background())
	updates, err := f.Synchronize(ctx, []*api.PodSandbox{{Id: "p", Annotations: map[string]string{"vprocfs.io/view": "off"}}}, []*api.Container{
		{Pid: 1, State: api.ContainerState_CONTAINER_CREATED},
		{Pid: 2, State: api.ContainerState_CONTAINER_RUNNING},
		{Pid: 3, State: api.ContainerState_CONTAINER_STOPPED},
		{Pid: 4, State: api.ContainerState_CONTAINER_PAUSED},
		{Pid: 5, State: api.ContainerState_CONTAINER_RUNNING, PodSandboxId: "p"},
	})
	cancel()     // the request is over
	close(first) // it did not wait for any of them
	if updates != nil || err != nil {
		t.Error(updates, err)
	}
	for deadline := time.Now().Add(10 * time.Second); !slices.Equal(f.pids(), []int{2, 4}); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("attached %v", f.pids())
		}
	}
}
