// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/initpid"
	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

// What tells a container from others: its pid namespace and the inodes of its groups.

// vanish makes reads of the files at path, which this process has open, fail with
// ENODEV: the kernel's answer for a file of a group that is gone, or that the group
// does not have any more.
func vanish(t *testing.T, path string) {
	t.Helper()
	dead := deadFile(t)
	defer unix.Close(dead)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		var number int
		link, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if _, e := fmt.Sscan(fd.Name(), &number); e != nil || err != nil || link != path {
			continue
		}
		if err := unix.Dup3(dead, number, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n == 0 {
		t.Fatalf("%s is not open", path)
	}
}

// deadFile returns a descriptor of a file of a control group that was removed.
func deadFile(t *testing.T) int {
	t.Helper()
	for _, tree := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu"} {
		dir := fmt.Sprintf("%s/vprocfs-test-%d", tree, os.Getpid())
		if !exists(tree+"/cgroup.procs") || unix.Mkdir(dir, 0o755) != nil {
			continue
		}
		fd, err := unix.Open(dir+"/cgroup.procs", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		err = errors.Join(err, unix.Rmdir(dir))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Pread(fd, make([]byte, 1), 0); err != unix.ENODEV {
			t.Fatalf("a file of a removed group: %v", err)
		}
		return fd
	}
	t.Fatal("no control group can be made")
	return -1
}

// busy is a container whose CPU time a test sets.
type busy struct {
	t   *testing.T
	h   *fixture.Host
	r   *Registry
	s   *Subject
	now int64
	dir string // its v2 group
}

func newBusy(t *testing.T, change func(*Config)) *busy {
	b := &busy{t: t, h: load(t, "trixie-v2")}
	b.now = b.h.Boottime
	b.r = fixtureRegistry(t, b.h, func(c *Config) {
		c.Now = func() int64 { return b.now }
		if change != nil {
			change(c)
		}
	})
	b.s = subject(t, b.h, b.h.Roles["child"])
	b.dir = filepath.Join(b.h.Root, "sys/fs/cgroup/machine/ct1")
	return b
}

func (b *busy) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// use sets the CPU time that the group has used.
func (b *busy) use(seconds int) {
	b.write("cpu.stat", fmt.Sprintf("usage_usec %d\nuser_usec %[1]d\nsystem_usec 0\n", seconds*1e6))
}

// seconds returns the CPU time that stat shows, after some time has passed.
func (b *busy) seconds() float64 {
	b.t.Helper()
	b.now += 100 * int64(time.Second)
	_, st := oracle(b.t, []byte("MemTotal: 1 kB\n"), render(b.t, b.r, "stat", b.s))
	return st.CPUTotal.User + st.CPUTotal.Nice + st.CPUTotal.System
}

// remake removes the group and makes another one at the same path.
func (b *busy) remake() {
	b.t.Helper()
	old := b.dir + ".old"
	if err := os.Rename(b.dir, old); err != nil {
		b.t.Fatal(err)
	}
	if err := os.CopyFS(b.dir, os.DirFS(old)); err != nil {
		b.t.Fatal(err)
	}
}

// TestAFileThatVanishesIsNoOtherContainer guards the account against files of a living
// group that go away: cgroup.pressure is set to 0, a controller is taken out of
// subtree_control.
func TestAFileThatVanishesIsNoOtherContainer(t *testing.T) {
	b := newBusy(t, nil)
	b.use(40)
	before := b.seconds()
	render(t, b.r, "meminfo", b.s)
	for _, name := range []string{"memory.current", "cpu.max"} {
		if name == "cpu.max" {
			render(t, b.r, "uptime", b.s)
		}
		vanish(t, filepath.Join(b.dir, name))
		render(t, b.r, "meminfo", b.s)
		if got := b.seconds(); got != before {
			t.Errorf("%s vanished: %.2f s busy, %.2f before", name, got, before)
		}
	}
	if len(b.r.Stats()) != 0 {
		t.Errorf("%v", b.r.Stats())
	}
	b.use(41)
	if got := b.seconds(); got < before+0.98 || got > before+1.02 {
		t.Errorf("%.2f s busy after one more, %.2f before", got, before)
	}
}

// TestPressureThatIsSwitchedOffIsNotTheHosts guards cgroup.pressure, which takes the
// files away.
func TestPressureThatIsSwitchedOffIsNotTheHosts(t *testing.T) {
	b := newBusy(t, nil)
	want := render(t, b.r, "pressure/cpu", b.s)
	path := filepath.Join(b.dir, "cpu.pressure")
	b.write("cgroup.pressure", "0\n")
	if err := os.Rename(path, path+".off"); err != nil {
		t.Fatal(err)
	}
	vanish(t, path+".off")
	for range 2 {
		got, err := appendFile(b.r, nil, fileNamed(t, b.r, "pressure/cpu"), pidOf(t, b.r, b.s), &fakeTurn{})
		if !errors.Is(err, unix.EOPNOTSUPP) || len(got) != 0 {
			t.Errorf("%q, %v", got, err)
		}
	}
	b.write("cgroup.pressure", "1\n")
	if err := os.Rename(path+".off", path); err != nil {
		t.Fatal(err)
	}
	if got := render(t, b.r, "pressure/cpu", b.s); !bytes.Equal(got, want) {
		t.Errorf("switched on again: %q, want %q", got, want)
	}
}

// TestInterruptPressureIsWhereTheKernelHasIt: the captured hosts do not have it.
func TestInterruptPressureIsWhereTheKernelHasIt(t *testing.T) {
	b := newBusy(t, nil)
	served := func(r *Registry) bool {
		return slices.ContainsFunc(r.Files(), func(f *File) bool { return f.String() == "pressure/irq" })
	}
	if served(b.r) {
		t.Error("served without /proc/pressure/irq")
	}
	const host, own = "full avg10=1.00 avg60=1.00 avg300=1.00 total=77\n", "full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"
	if err := os.WriteFile(filepath.Join(b.h.Root, "proc/pressure/irq"), []byte(host), 0o644); err != nil {
		t.Fatal(err)
	}
	b.write("irq.pressure", own)
	b.r = fixtureRegistry(t, b.h, nil)
	if !served(b.r) {
		t.Fatal("not served")
	}
	if got := string(render(t, b.r, "pressure/irq", b.s)); got != own {
		t.Errorf("%q, want the group's", got)
	}
	if got := string(render(t, b.r, "pressure/irq", subject(t, b.h, b.h.Roles["host"]))); got != host {
		t.Errorf("%q, want the host's", got)
	}
	q := TriggerRequest{PID: pidOf(t, b.r, b.s), File: fileNamed(t, b.r, "pressure/irq"), Turn: &fakeTurn{}}
	if at, err := b.r.triggerPlace(q); err != nil || at.File != filepath.Join(b.dir, "irq.pressure") {
		t.Errorf("a trigger goes to %q, %v", at.File, err)
	}
}

// TestAGroupMadeAnewIsAnotherContainer guards services of the host's pid namespace: a
// restarted one begins at 0, whether files of the former one were open or not, and in
// another process.
func TestAGroupMadeAnewIsAnotherContainer(t *testing.T) {
	for _, open := range []bool{true, false} {
		b := newBusy(t, nil)
		b.s.Host, b.s.Init = true, 1
		table := accounts(t)
		b.r.tables = tables{accounts: table}
		b.use(600)
		before := b.seconds()
		b.remake()
		b.use(3)
		if open {
			vanish(t, filepath.Join(b.dir+".old", "cpu.stat"))
		} else {
			b.r.release(b.s.NS)
		}
		render(t, b.r, "stat", b.s) // while the decision about the former one still stands
		b.seconds()
		b.use(5)
		after := b.seconds()
		if after > before/2 || after < 2 || len(b.r.Stats()) != 0 {
			t.Errorf("open %t: %.2f s busy, and %.2f of the one before; %v", open, after, before, b.r.Stats())
		}
		next := newBusy(t, nil)
		next.h, next.dir, next.s, next.now = b.h, b.dir, b.s, b.now
		next.r = fixtureRegistry(t, b.h, func(c *Config) { c.Now = func() int64 { return next.now } })
		next.r.tables = tables{accounts: table}
		if got := next.seconds(); got != after {
			t.Errorf("open %t: %.2f s busy in the next process, want %.2f", open, got, after)
		}
	}
}

// TestALivingContainerGoesOnInAGroupMadeAnew guards its counters: the new group's begin
// at 0.
func TestALivingContainerGoesOnInAGroupMadeAnew(t *testing.T) {
	for _, open := range []bool{true, false} {
		b := newBusy(t, nil)
		before := b.seconds()
		b.remake()
		b.use(2)
		if open {
			vanish(t, filepath.Join(b.dir+".old", "cpu.stat"))
		} else {
			b.r.release(b.s.NS)
		}
		render(t, b.r, "stat", b.s) // while the decision about the former group still stands
		if got := b.seconds(); got < before+1.98 || got > before+2.02 {
			t.Errorf("open %t: busy %.2f s, want 2 s more than %.2f", open, got, before)
		}
		if len(b.r.Stats()) != 0 {
			t.Errorf("open %t: %v", open, b.r.Stats())
		}
	}
}

// TestAContainerWithoutControllersKeepsItsFiles guards containers whose controllers are
// enabled only above them: to look for news takes no open(2).
func TestAContainerWithoutControllersKeepsItsFiles(t *testing.T) {
	h := load(t, "trixie-v2-nomem")
	now := h.Boottime
	v := fixtureRegistry(t, h, func(c *Config) { c.Now = func() int64 { return now } })
	s := subject(t, h, h.Roles["child"])
	for _, name := range []string{"meminfo", "stat", "diskstats"} {
		render(t, v, name, s)
	}
	for i := range 30 {
		now += int64(lookAgain) + 1
		for _, name := range []string{"meminfo", "stat", "diskstats"} {
			if blocks(t, v, name, s) {
				t.Fatalf("%s opens files again after %d s", name, i+1)
			}
		}
	}
}

// TestARemovedGroupIsNotItsParent guards a directory that goes before files are opened.
func TestARemovedGroupIsNotItsParent(t *testing.T) {
	b := newBusy(t, nil)
	render(t, b.r, "uptime", b.s)
	b.r.release(b.s.NS)
	if err := os.Rename(b.dir, b.dir+".old"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"uptime", "meminfo", "stat", "swaps", "diskstats", "cpuinfo", "loadavg", "pressure/cpu"} {
		got := render(t, b.r, name, b.s)
		if want := b.h.Read(t, "proc/"+name); !bytes.Equal(got, want) {
			t.Errorf("%s is not the host's:\n%s", name, got)
		}
		if b.r.Stats()[name+"/removed-cgroup"] == 0 {
			t.Errorf("%s: %v", name, b.r.Stats())
		}
	}
}

// TestWithoutDescriptorsAReadFails guards containers from the host's numbers.
func TestWithoutDescriptorsAReadFails(t *testing.T) {
	b := newBusy(t, nil)
	other := *b.s
	other.NS++
	for _, f := range b.r.Files() {
		renderFile(t, b.r, f, b.s)
	}
	pidOf(t, b.r, &other)
	open := b.r.OpenFiles()
	free := withoutDescriptors(t)
	// Files of the first container make room for the second.
	got, err := appendFile(b.r, nil, fileNamed(t, b.r, "uptime"), pidOf(t, b.r, &other), &fakeTurn{})
	if now := b.r.OpenFiles(); err != nil || len(got) == 0 || now >= open {
		t.Errorf("%q, %v; %d files are open, %d before", got, err, now, open)
	}
	free()
	b.r.release(b.s.NS)
	b.r.release(other.NS)
	free = withoutDescriptors(t)
	for _, name := range []string{"uptime", "meminfo", "loadavg", "diskstats", "pressure/io"} {
		got, err := appendFile(b.r, nil, fileNamed(t, b.r, name), pidOf(t, b.r, b.s), &fakeTurn{})
		if !errors.Is(err, unix.EMFILE) || len(got) != 0 {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	free()
	all := b.r.Stats()
	if all["meminfo/"+OutOfResources] != 1 {
		t.Errorf("counted: %v", all)
	}
	for name := range all {
		if !strings.HasSuffix(name, "/"+OutOfResources) {
			t.Errorf("counted: %s", name)
		}
	}
	render(t, b.r, "meminfo", b.s)
}

// withoutDescriptors takes all free descriptors away until free is called.
func withoutDescriptors(t *testing.T) (free func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	var taken []int
	set := func(cur uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cur, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
	}
	set(4096)
	for {
		fd, err := unix.Dup(0)
		if err != nil {
			break
		}
		unix.CloseOnExec(fd)
		taken = append(taken, fd)
	}
	return func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		taken = nil
		set(was.Cur)
	}
}

// TestUnresolvedForWantOfDescriptorsFails guards the way to the init.
func TestUnresolvedForWantOfDescriptorsFails(t *testing.T) {
	b := newBusy(t, nil)
	pid := pidOf(t, b.r, b.s)
	asked := 0
	b.r.inits.(*fakeInits).resolve = func(int) error {
		asked++
		return fmt.Errorf("open: %w", unix.EMFILE)
	}
	if _, err := appendFile(b.r, nil, fileNamed(t, b.r, "uptime"), pid, &fakeTurn{}); !errors.Is(err, unix.EMFILE) {
		t.Errorf("%v", err)
	}
	b.r.inits.(*fakeInits).resolve = func(int) error { return errors.New("helper is slow") }
	got := render(t, b.r, "uptime", b.s)
	if !bytes.Equal(got, b.h.Read(t, "proc/uptime")) || b.r.Stats()["uptime/unresolved"] != 1 {
		t.Errorf("%q, %v", got, b.r.Stats())
	}
}

// TestADeadNamespaceIsNotWantOfMemory guards callers whose init is gone: clone(2) says
// ENOMEM in their namespace.
func TestADeadNamespaceIsNotWantOfMemory(t *testing.T) {
	b := newBusy(t, nil)
	pid := pidOf(t, b.r, b.s)
	b.r.inits.(*fakeInits).resolve = func(int) error { return fmt.Errorf("%w: %w", initpid.ErrNoInit, unix.ENOMEM) }
	got, err := appendFile(b.r, nil, fileNamed(t, b.r, "uptime"), pid, &fakeTurn{})
	if err != nil || !bytes.Equal(got, b.h.Read(t, "proc/uptime")) || b.r.Stats()["uptime/no-init"] != 1 {
		t.Errorf("%q, %v, %v", got, err, b.r.Stats())
	}
}

// TestAFailedControllerIsOnlyItsOwn guards files whose controller was found.
func TestAFailedControllerIsOnlyItsOwn(t *testing.T) {
	b := newBusy(t, func(c *Config) { c.Policy = cgroup.Caller })
	b.s.Groups = []byte("7:memory:/x\n0::/machine/ct1\n")
	if got := render(t, b.r, "uptime", b.s); bytes.Equal(got, b.h.Read(t, "proc/uptime")) {
		t.Error("uptime is the host's")
	}
}
