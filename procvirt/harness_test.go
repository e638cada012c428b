// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"vprocfs/initpid"
	"vprocfs/procvirt/internal/fixture"
)

// fixtureRegistry returns the registry of a captured host, at the time of the capture.
func fixtureRegistry(tb testing.TB, h *fixture.Host, change func(*Config)) *Registry {
	tb.Helper()
	cfg := Config{
		Root: h.Root, Recheck: time.Minute, MaxFiles: 1000,
		Now: func() int64 { return h.Boottime }, Steady: func() int64 { return h.Boottime },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	// The captures have none: a container is shown the head of it only.
	if slabs := filepath.Join(h.Root, "proc/slabinfo"); !exists(slabs) {
		text := slabinfoHeader + "kmem_cache            45     64    256   32    2 : tunables    0    0    0 : slabdata      2      2      0\n"
		if err := os.WriteFile(slabs, []byte(text), 0o400); err != nil {
			tb.Fatal(err)
		}
	}
	addEvents(tb, h)
	addThreads(tb, h)
	if change != nil {
		change(&cfg)
	}
	r, err := newRegistry(cfg, func(*Registry) (inits, error) { return &fakeInits{}, nil })
	if err != nil {
		tb.Fatal(err)
	}
	r.slowAfter = time.Hour // the machine may be busy
	tb.Cleanup(r.Close)
	return r
}

// addEvents makes what the captures do not have of /proc/vmstat: the host's file, as Linux
// 6.18 has it, the size of huge pages, and each group's OOM kills, of which there are 3.
func addEvents(tb testing.TB, h *fixture.Host) {
	tb.Helper()
	text, err := os.ReadFile("testdata/vmstat-6.18")
	if err != nil {
		tb.Fatal(err)
	}
	write := func(path, text string) {
		if exists(path) {
			return
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			tb.Fatal(err)
		}
	}
	write(filepath.Join(h.Root, "proc/vmstat"), string(text))
	write(filepath.Join(h.Root, "sys/kernel/mm/transparent_hugepage/hpage_pmd_size"), "2097152\n")
	write(filepath.Join(h.Root, "proc/devices"), "Character devices:\n  1 mem\n\nBlock devices:\n  7 loop\n252 device-mapper\n253 virtblk\n254 zram\n")
	err = filepath.WalkDir(h.Root, func(path string, d fs.DirEntry, err error) error {
		switch dir := filepath.Dir(path); d.Name() {
		case "memory.current":
			write(filepath.Join(dir, "memory.events"), "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n")
		case "memory.usage_in_bytes":
			write(filepath.Join(dir, "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// fakeInits are the inits of callers that are files of a fixture.
type fakeInits struct {
	mu   sync.Mutex
	init map[int]initpid.Init
	pids map[string]int // of callers, by all that is known of them
	// resolve is called by Resolve if it is set, and Lookup finds nothing then.
	resolve func(pid int) error
	// asked counts the calls of Outermost.
	asked int
}

func (f *fakeInits) Lookup(pid int) (initpid.Init, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	init, ok := f.init[pid]
	if !ok {
		return init, true, initpid.ErrCallerGone
	}
	if f.resolve != nil {
		return initpid.Init{NS: init.NS}, false, nil
	}
	return init, true, nil
}

func (f *fakeInits) Stats() initpid.Stats { return initpid.Stats{} }

func (f *fakeInits) LookupNS(ns uint64) (initpid.Init, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, init := range f.init {
		if init.NS == ns {
			return init, f.resolve == nil, nil
		}
	}
	return initpid.Init{}, false, nil
}

func (f *fakeInits) Resolve(pid int) (initpid.Init, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.resolve != nil {
		if err := f.resolve(pid); err != nil {
			return initpid.Init{}, err
		}
	}
	return f.init[pid], nil
}

func (f *fakeInits) Outermost(pid int) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.init[pid].Owner, nil
}

func (f *fakeInits) Close() {}

// fakeTurn is a Turn that counts how often it blocks.
type fakeTurn struct {
	blocked int
	owner   uint64
	refuse  error
	// delays are those that were asked for, and delayErr what they return.
	delays   []time.Duration
	delayErr error
}

func (t *fakeTurn) Block(owner uint64) error {
	t.blocked++
	t.owner = owner
	return t.refuse
}

func (t *fakeTurn) SetOwner(owner uint64) { t.owner = owner }

func (t *fakeTurn) Delay(_ uint64, d time.Duration) error {
	t.delays = append(t.delays, d)
	return t.delayErr
}

// Subject is a caller and its init.
type Subject struct {
	NS, ID, Owner uint64
	Init          int
	Host          bool
	Groups        []byte
}

// subject is the caller with the given pid of a captured host.
func subject(tb testing.TB, h *fixture.Host, pid int) *Subject {
	tb.Helper()
	s := &Subject{NS: 4026540000, Init: h.Init, Groups: h.Read(tb, fmt.Sprintf("proc/%d/cgroup", pid))}
	if pid == h.Roles["host"] {
		s.NS, s.Init, s.Host = 4026531836, 1, true
	}
	return s
}

// pidOf returns the pid of s, a process of its own.
func pidOf(tb testing.TB, r *Registry, s *Subject) int {
	tb.Helper()
	f := r.inits.(*fakeInits)
	f.mu.Lock()
	defer f.mu.Unlock()
	key := fmt.Sprintf("%d %d %d %d %t %s", s.NS, s.ID, s.Owner, s.Init, s.Host, s.Groups)
	pid, ok := f.pids[key]
	if ok {
		return pid
	}
	if f.pids == nil {
		f.pids, f.init = map[string]int{}, map[int]initpid.Init{}
	}
	pid = 1_000_000 + len(f.pids)
	f.pids[key] = pid
	owner := s.Owner
	if owner == 0 {
		owner = s.NS
	}
	f.init[pid] = initpid.Init{PID: s.Init, NS: s.NS, ID: s.ID, Owner: owner, Host: s.Host}
	dir := filepath.Join(r.proc, strconv.Itoa(pid))
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "cgroup"), s.Groups, 0o644)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return pid
}

// appendFile is what the adapter to package fs does.
func appendFile(r *Registry, dst []byte, f *File, pid int, t Turn) ([]byte, error) {
	c, err := r.AcquireToRead(pid, t)
	if err != nil {
		return r.AppendHost(dst, f, err, t)
	}
	defer c.Release()
	return c.Append(dst, f)
}

// blocks reports whether reading f blocks.
func blocks(tb testing.TB, r *Registry, name string, s *Subject) bool {
	tb.Helper()
	var turn fakeTurn
	if _, err := appendFile(r, nil, fileNamed(tb, r, name), pidOf(tb, r, s), &turn); err != nil {
		tb.Fatal(err)
	}
	return turn.blocked > 0
}

// errRefused is what a Turn answers that admits nothing.
var errRefused = errors.New("refused")

// fileNamed returns the file with the given short name.
func fileNamed(tb testing.TB, r *Registry, name string) *File {
	tb.Helper()
	for i := range r.files {
		if r.files[i].String() == name {
			return &r.files[i]
		}
	}
	tb.Fatalf("no file %s", name)
	return nil
}

func render(tb testing.TB, r *Registry, name string, s *Subject) []byte {
	tb.Helper()
	return renderFile(tb, r, fileNamed(tb, r, name), s)
}

func renderFile(tb testing.TB, r *Registry, f *File, s *Subject) []byte {
	tb.Helper()
	text, err := appendFile(r, nil, f, pidOf(tb, r, s), &fakeTurn{})
	if err != nil {
		tb.Fatalf("%v: %v", f, err)
	}
	return text
}
