// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
	"vprocfs/internal/seccomp/seccomptest"
	"vprocfs/procvirt"
	"vprocfs/procvirt/cgroup"
)

func TestMain(m *testing.M) {
	child()
	seccomptest.Main()
	os.Exit(m.Run())
}

// fakeView has the same numbers for all.
type fakeView struct {
	mu      sync.Mutex
	info    procvirt.Sysinfo
	cpus    []int // nil: those of the host
	err     error
	before  func() // called before each answer
	callers []int
}

func (v *fakeView) enter(tid int) error {
	v.mu.Lock()
	v.callers = append(v.callers, tid)
	before, err := v.before, v.err
	v.mu.Unlock()
	if before != nil {
		before()
	}
	return err
}

func (v *fakeView) Sysinfo(tid int, s *procvirt.Sysinfo) error {
	*s = v.info
	return v.enter(tid)
}

func (v *fakeView) VisibleCPUs(tid int, set *cgroup.CPUs) (bool, error) {
	set.Clear()
	for _, cpu := range v.cpus {
		set.Add(cpu)
	}
	return v.cpus != nil, v.enter(tid)
}

func newFakeView() *fakeView { return &fakeView{info: numbers(), cpus: []int{0}} }

// serve has an agent answer the calls of a new caller.
func serve(t *testing.T, v View) (*Agent, *seccomptest.Caller) {
	t.Helper()
	a := NewAgent(v, slog.New(slog.NewTextHandler(io.Discard, nil)))
	return a, addCaller(t, a, t.Name())
}

func addCaller(t *testing.T, a *Agent, name string) *seccomptest.Caller {
	t.Helper()
	c := seccomptest.Start(t, Calls()...)
	served := make(chan error, 1)
	go func() { served <- a.Serve(name, c.Listener) }()
	t.Cleanup(func() {
		c.Kill()
		select {
		case err := <-served:
			if err != nil {
				t.Error("serve: ", err)
			}
		case <-time.After(seccomptest.Patience):
			t.Error("the agent still serves a caller that is gone")
		}
	})
	return c
}

const page = 4096

func mapPage(c *seccomptest.Caller) uintptr {
	return c.Map(page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
}

func wantOutcome(t *testing.T, a *Agent, name string, want uint64) {
	t.Helper()
	if got := a.Stats(); got[name] != want {
		t.Errorf("%s is %d, want %d: %v", name, got[name], want, got)
	}
}

func TestSysinfoIsAnswered(t *testing.T) {
	v := newFakeView()
	a, c := serve(t, v)
	addr := mapPage(c)
	if r, e := c.Call(unix.SYS_SYSINFO, addr); r != 0 || e != 0 {
		t.Fatalf("%d, %v", r, e)
	}
	if got, want := c.Peek(addr, maxSysinfo+8), append(appendSysinfo64(nil, &v.info), make([]byte, 8)...); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	wantOutcome(t, a, "sysinfo/answered", 1)
	if err := unix.Tgkill(c.PID, v.callers[0], 0); err != nil {
		t.Errorf("asked about thread %d, which process %d does not have: %v", v.callers[0], c.PID, err)
	}
}

// TestSysinfo32IsAnswered gives the kernel's own numbers to a 32-bit caller, and compares the
// struct with the one that the kernel makes.
func TestSysinfo32IsAnswered(t *testing.T) {
	if !seccomptest.Has32(t) {
		t.Skip("not run: this kernel runs no programs of i386; a guest of make test-vm-gate does (internal/syscalls)")
	}
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		t.Fatal(err)
	}
	if host.Unit != 1 {
		t.Fatalf("unit %d", host.Unit)
	}
	v := newFakeView()
	v.info = procvirt.Sysinfo{
		Uptime: uint64(host.Uptime), Loads: host.Loads, TotalRAM: host.Totalram, FreeRAM: host.Freeram, SharedRAM: host.Sharedram,
		BufferRAM: host.Bufferram, TotalSwap: host.Totalswap, FreeSwap: host.Freeswap, Threads: uint64(host.Procs),
	}
	a, c := serve(t, v)
	addr := c.Map(page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_32BIT)
	call := func() []byte {
		t.Helper()
		if r, e := c.Call32(116, addr); r != 0 || e != 0 {
			t.Fatalf("%d, %v", r, e)
		}
		return c.Peek(addr, 64)
	}
	ours := call()
	wantOutcome(t, a, "sysinfo/answered", 1)
	v.mu.Lock()
	v.err = errors.New("no numbers")
	v.mu.Unlock()
	kernels := call()
	wantOutcome(t, a, "sysinfo/failed", 1)
	// What does not change from moment to moment.
	for name, offset := range map[string]int{"totalram": 16, "totalswap": 32, "totalhigh": 44, "freehigh": 48, "mem_unit": 52} {
		if word32(ours, offset) != word32(kernels, offset) {
			t.Errorf("%s is %d, %d from the kernel", name, word32(ours, offset), word32(kernels, offset))
		}
	}
	for name, offset := range map[string]int{"uptime": 0, "freeram": 20, "bufferram": 28} {
		if a, b := float64(word32(ours, offset)), float64(word32(kernels, offset)); a < b/2-100 || a > 2*b+100 {
			t.Errorf("%s is %v, %v from the kernel", name, a, b)
		}
	}
}

// TestCallOfI386IsAnswered on every machine: the call is another one, as far as the kernel
// knows.
func TestCallOfI386IsAnswered(t *testing.T) {
	v := newFakeView()
	a := NewAgent(v, slog.New(slog.DiscardHandler))
	c := seccomptest.Start(t, Calls()[0])
	addr := mapPage(c)
	p := c.Go(unix.SYS_SYSINFO, addr)
	var n seccomp.Notification
	if err := c.Listener.Receive(&n); err != nil {
		t.Fatal(err)
	}
	n.Call = seccomp.Call{NR: 116, Arch: unix.AUDIT_ARCH_I386}
	th := caller{tid: int(n.TID), memory: -1, valid: func() bool { return c.Listener.Valid(n.ID) }}
	defer th.close()
	resp := newAnswerer(a).answer(&n, &th)
	if err := c.Listener.Send(&resp); err != nil {
		t.Fatal(err)
	}
	if r, e := p.Wait(); r != 0 || e != 0 {
		t.Errorf("%d, %v", r, e)
	}
	if got, want := c.Peek(addr, 64+8), append(appendSysinfo32(nil, &v.info), make([]byte, 8)...); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// affinity returns what sched_getaffinity(2) returns, and the mask.
func affinity(c *seccomptest.Caller, pid, length int) (n int, mask []byte, e unix.Errno) {
	addr := mapPage(c)
	n, e = c.Call(unix.SYS_SCHED_GETAFFINITY, uintptr(pid), uintptr(length), addr)
	return n, c.Peek(addr, 128), e
}

// hostAffinity returns what the kernel returns about a process.
func hostAffinity(t *testing.T, pid, length int) (n int, mask []byte) {
	t.Helper()
	mask = make([]byte, max(length, 128))
	n, err := schedGetAffinity(pid, mask[:length])
	if err != nil {
		t.Fatal(err)
	}
	return n, mask[:128]
}

func only(cpu int) []byte {
	mask := make([]byte, 128)
	mask[cpu/8] |= 1 << (cpu % 8)
	return mask
}

// shownFirst returns a view that shows the first CPU that this process may run on.
func shownFirst(t *testing.T) (v *fakeView, cpu int) {
	t.Helper()
	_, mask := hostAffinity(t, 0, 128)
	for cpu = 0; mask[cpu/8]&(1<<(cpu%8)) == 0; cpu++ {
	}
	v = newFakeView()
	v.cpus = []int{cpu}
	return v, cpu
}

func TestAffinityShowsTheVisibleCPUs(t *testing.T) {
	v, cpu := shownFirst(t)
	a, c := serve(t, v)
	for _, length := range []int{128, 1024, 1 << 20} {
		want, _ := hostAffinity(t, c.PID, min(length, 1024))
		n, mask, e := affinity(c, 0, length)
		if n != want || e != 0 || !bytes.Equal(mask, only(cpu)) {
			t.Errorf("length %d: %d, %v, %x", length, n, e, mask)
		}
	}
	// glibc's pthread_getaffinity_np gives the thread's own id.
	if n, mask, e := affinity(c, c.PID, 128); n <= 0 || e != 0 || translates() && !bytes.Equal(mask, only(cpu)) {
		t.Errorf("by id: %d, %v, %x", n, e, mask)
	}
	// Errors are the kernel's.
	if _, _, e := affinity(c, 0, 3); e != unix.EINVAL {
		t.Errorf("length 3: %v", e)
	}
	if _, _, e := affinity(c, 0, 0); e != unix.EINVAL {
		t.Errorf("length 0: %v", e)
	}
	if _, _, e := affinity(c, 1<<30, 128); e != unix.ESRCH {
		t.Errorf("no such thread: %v", e)
	}
	if _, _, e := affinity(c, -1, 128); e != unix.ESRCH && e != unix.EINVAL {
		t.Errorf("thread -1: %v", e)
	}
	if seccomptest.Has32(t) {
		addr := c.Map(page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_32BIT)
		if n, e := c.Call32(242, 0, 128, addr); n <= 0 || e != 0 || !bytes.Equal(c.Peek(addr, 128), only(cpu)) {
			t.Errorf("32 bits: %d, %v, %x", n, e, c.Peek(addr, 128))
		}
	}
	if a.Stats()["sched_getaffinity/failed"] > 0 {
		t.Error(a.Stats())
	}
}

// translates reports whether the kernel translates thread ids (Linux 6.11).
func translates() bool {
	fd, err := unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlPIDFrom, uintptr(os.Getpid()))
	return e == 0
}

// TestAffinityOutsideTheVisibleCPUsIsTheRealOne: the thread was put there on purpose.
func TestAffinityOutsideTheVisibleCPUsIsTheRealOne(t *testing.T) {
	v := newFakeView()
	for name, cpus := range map[string][]int{"none of them": {cgroup.MaxCPUs - 1}, "the host's": nil} {
		t.Run(name, func(t *testing.T) {
			v.cpus = cpus
			_, c := serve(t, v)
			want, real := hostAffinity(t, c.PID, 128)
			if n, mask, e := affinity(c, 0, 128); n != want || e != 0 || !bytes.Equal(mask, real) {
				t.Errorf("%d, %v, %x instead of %x", n, e, mask, real)
			}
		})
	}
}

// threadsOn returns how many threads of a process have the mask.
func threadsOn(t *testing.T, pid int, mask []byte) (n int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		if _, m := hostAffinity(t, tid, 128); bytes.Equal(m, mask) {
			n++
		}
	}
	return n
}

// TestAffinityThatWasShownGivesAllCPUsBack has a program save, pin and restore.
func TestAffinityThatWasShownGivesAllCPUsBack(t *testing.T) {
	v, cpu := shownFirst(t)
	a, c := serve(t, v)
	_, all := hostAffinity(t, c.PID, 128)
	if bytes.Equal(all, only(cpu)) {
		t.Fatal("this needs two CPUs")
	}
	_, shown, _ := affinity(c, 0, 128)
	set := func(pid int, mask []byte, length int) unix.Errno {
		t.Helper()
		addr := mapPage(c)
		c.Poke(addr, mask)
		_, e := c.Call(unix.SYS_SCHED_SETAFFINITY, uintptr(pid), uintptr(length), addr)
		return e
	}
	if e := set(0, shown, 128); e != 0 {
		t.Fatal(e)
	}
	if n := threadsOn(t, c.PID, only(cpu)); n != 0 {
		t.Errorf("%d threads are pinned to what was shown", n)
	}
	wantOutcome(t, a, "sched_setaffinity/answered", 1)
	if e := set(0, shown, 1); e != 0 {
		t.Errorf("a short mask: %v", e)
	}
	wantOutcome(t, a, "sched_setaffinity/answered", 2)

	// Any other mask is the kernel's, of another thread too.
	other := bytes.Clone(all)
	other[cpu/8] &^= 1 << (cpu % 8)
	if e := set(c.PID, other, 128); e != 0 {
		t.Fatal(e)
	}
	if _, mask := hostAffinity(t, c.PID, 128); !bytes.Equal(mask, other) {
		t.Errorf("the thread is on %x, not on %x", mask, other)
	}
	if e := set(0, make([]byte, 128), 128); e != unix.EINVAL {
		t.Errorf("no CPU: %v", e)
	}
	if _, e := c.Call(unix.SYS_SCHED_SETAFFINITY, 0, 128, 8); e != unix.EFAULT {
		t.Errorf("no memory: %v", e)
	}
}

func TestCallsWithoutNumbersAreTheKernels(t *testing.T) {
	for name, change := range map[string]func(*fakeView){
		"error": func(v *fakeView) { v.err = procvirt.NoInit },
		"panic": func(v *fakeView) { v.before = func() { panic("found by a test") } },
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeView()
			change(v)
			a, c := serve(t, v)
			addr := mapPage(c)
			if r, e := c.Call(unix.SYS_SYSINFO, addr); r != 0 || e != 0 {
				t.Fatalf("%d, %v", r, e)
			}
			var host unix.Sysinfo_t
			if err := unix.Sysinfo(&host); err != nil {
				t.Fatal(err)
			}
			if total := binary.LittleEndian.Uint64(c.Peek(addr+32, 8)); total != host.Totalram {
				t.Errorf("%d bytes of memory, the host has %d", total, host.Totalram)
			}
			if n, _, e := affinity(c, 0, 128); n <= 0 || e != 0 {
				t.Errorf("%d, %v", n, e)
			}
			wantOutcome(t, a, "sysinfo/failed", 1)
			wantOutcome(t, a, "sched_getaffinity/failed", 1)
		})
	}
}

func TestManyThreadsAreAnswered(t *testing.T) {
	v := newFakeView()
	a, c := serve(t, v)
	addr := c.Map(64*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	want := appendSysinfo64(nil, &v.info)
	var calls []*seccomptest.Pending
	for i := range 64 {
		calls = append(calls, c.Go(unix.SYS_SYSINFO, addr+uintptr(i*page)))
	}
	for i, p := range calls {
		if r, e := p.Wait(); r != 0 || e != 0 || !bytes.Equal(c.Peek(addr+uintptr(i*page), maxSysinfo), want) {
			t.Errorf("call %d: %d, %v", i, r, e)
		}
	}
	wantOutcome(t, a, "sysinfo/answered", 64)
}

func TestAgentForgetsAContainerThatEnded(t *testing.T) {
	a := NewAgent(newFakeView(), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { // runs last
		if a.listeners != 0 || len(a.containers) != 0 {
			t.Errorf("%d listeners, %d containers", a.listeners, len(a.containers))
		}
	})
	first, second := addCaller(t, a, "web"), addCaller(t, a, "web")
	for _, c := range []*seccomptest.Caller{first, second} {
		if _, e := c.Call(unix.SYS_SYSINFO, mapPage(c)); e != 0 {
			t.Error(e)
		}
		c.Kill()
	}
}

func TestListenersAreBounded(t *testing.T) {
	a := NewAgent(newFakeView(), slog.New(slog.DiscardHandler))
	names, refused := 0, false
	for names = 0; !refused; names++ {
		name := strconv.Itoa(names)
		for n := range maxPerContainer + 1 {
			if _, err := a.enter(name); err == ErrTooMany {
				refused = refused || n < maxPerContainer
				break
			}
		}
	}
	if a.listeners != maxListeners {
		t.Errorf("%d listeners", a.listeners)
	}
	for i := range names {
		for a.containers[strconv.Itoa(i)] != nil {
			a.leave(strconv.Itoa(i))
		}
	}
	if a.listeners != 0 || len(a.containers) != 0 {
		t.Errorf("%d listeners, %d containers are left", a.listeners, len(a.containers))
	}
}

// TestMonitorOfLXC is one: it has the listener, and asks the agent.
func TestMonitorOfLXC(t *testing.T) {
	v := newFakeView()
	a := NewAgent(v, slog.New(slog.DiscardHandler))
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	end := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "lxc")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.UnixConn)
	}
	monitor, ours := end(fds[0]), end(fds[1])
	defer ours.Close()
	served := make(chan error, 1)
	go func() { served <- a.ServeLXC(ours) }()
	c := seccomptest.Start(t, Calls()...)
	addr := mapPage(c)

	for _, tt := range []struct {
		monitor int
		answer  bool
	}{{os.Getpid(), true}, {1, false}} {
		call := c.Go(unix.SYS_SYSINFO, addr)
		var n seccomp.Notification
		if err := c.Listener.Receive(&n); err != nil {
			t.Fatal(err)
		}
		memory, err := os.OpenFile("/proc/"+strconv.Itoa(int(n.TID))+"/mem", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		null, err := os.Open("/dev/null") // stands for what the agent does not use
		if err != nil {
			t.Fatal(err)
		}
		msg := lxcMessage(tt.monitor, &n)
		if _, _, err := monitor.WriteMsgUnix(msg, unix.UnixRights(int(null.Fd()), int(memory.Fd()), int(null.Fd())), nil); err != nil {
			t.Fatal(err)
		}
		memory.Close()
		null.Close()
		reply := make([]byte, 4096)
		size, err := monitor.Read(reply)
		if err != nil || size != 136 {
			t.Fatalf("a reply of %d bytes, %v", size, err)
		}
		resp := seccomp.Response{
			ID: binary.LittleEndian.Uint64(reply[112:]), Value: int64(binary.LittleEndian.Uint64(reply[120:])),
			Error: int32(binary.LittleEndian.Uint32(reply[128:])), Flags: binary.LittleEndian.Uint32(reply[132:]),
		}
		if resp.Continues() == tt.answer {
			t.Errorf("monitor %d: %+v", tt.monitor, resp)
		}
		if err := c.Listener.Send(&resp); err != nil {
			t.Fatal(err)
		}
		if r, e := call.Wait(); r != 0 || e != 0 {
			t.Errorf("%d, %v", r, e)
		}
		if got := bytes.Equal(c.Peek(addr, maxSysinfo), appendSysinfo64(nil, &v.info)); got != tt.answer {
			t.Errorf("monitor %d: our numbers %v", tt.monitor, got)
		}
	}
	monitor.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// lxcMessage is what LXC sends on a little-endian machine.
func lxcMessage(monitor int, n *seccomp.Notification) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 8), uint32(monitor))
	b = le.AppendUint32(b, 1)
	for _, size := range []uint16{80, 24, 64, 0} {
		b = le.AppendUint16(b, size)
	}
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint64(b, n.ID)
	for _, v := range []uint32{n.TID, n.Flags, uint32(n.NR), n.Arch} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range append([]uint64{n.IP}, n.Args[:]...) {
		b = le.AppendUint64(b, v)
	}
	return append(b, make([]byte, 24)...)
}
