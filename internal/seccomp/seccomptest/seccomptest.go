// SPDX-License-Identifier: Apache-2.0

// Package seccomptest runs a process under a seccomp filter that makes the system calls
// that a test tells it to.
package seccomptest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
	"vprocfs/internal/seccomp"
)

const callsEnv = "VPROCFS_TEST_SECCOMP_CALLS"

// Main makes the calling process, a test binary, the caller of a test if it was started
// as one. TestMain must call it first.
func Main() {
	text, ok := os.LookupEnv(callsEnv)
	if !ok {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, "caller:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve obeys lines "TAG WORD ARGS...", each on a thread of its own, and prints "TAG RESULT
// ERRNO" when the call has returned.
func serve(text string) error {
	var calls []seccomp.Call
	for _, f := range strings.Fields(text) {
		var c seccomp.Call
		if _, err := fmt.Sscanf(f, "%d/%d", &c.Arch, &c.NR); err != nil {
			return err
		}
		calls = append(calls, c)
	}
	fd, err := seccomp.Install(calls)
	if err != nil {
		return err
	}
	c, err := fdconn.New(os.NewFile(3, "parent"))
	if err != nil {
		return err
	}
	if err := c.Send("listener", fd); err != nil {
		return err
	}
	unix.Close(fd)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		f := strings.Fields(in.Text())
		var args [7]uintptr // the number of the call is the first
		for i, s := range f[2:] {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				return err
			}
			args[i] = uintptr(n)
		}
		go func() {
			r, e := obey(f[1], args)
			fmt.Println(f[0], r, int(e))
		}()
	}
	return in.Err()
}

// The words of a line.
const (
	wordCall   = "call"   // of this process's own table
	wordCall32 = "call32" // of the table of i386
	wordExec   = "exec"
)

func obey(word string, args [7]uintptr) (int, unix.Errno) {
	switch word {
	case wordCall32:
		return call32(args)
	case wordExec:
		err := unix.Exec("/bin/sleep", []string{"sleep", "1000"}, nil)
		return -1, err.(unix.Errno)
	}
	r, _, e := unix.Syscall6(args[0], args[1], args[2], args[3], args[4], args[5], args[6])
	return int(r), e
}

// Caller is the process.
type Caller struct {
	Listener *seccomp.Listener
	PID      int

	tb      testing.TB
	cmd     *exec.Cmd
	reap    func()
	in      io.Writer
	mu      sync.Mutex
	tag     int
	waiting map[int]*Pending
}

// Pending is a call that was asked for.
type Pending struct {
	tb     testing.TB
	done   chan struct{}
	result int
	errno  unix.Errno
}

// Start starts a process whose filter notifies of the calls. It ends with the test.
func Start(tb testing.TB, calls ...seccomp.Call) *Caller {
	tb.Helper()
	c, fd := StartFD(tb, calls...)
	var err error
	if c.Listener, err = seccomp.NewListener(fd); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Listener.Close() }) // a test may have closed it
	return c
}

// StartFD is Start for a test that makes the Listener itself, of the descriptor that it
// returns.
func StartFD(tb testing.TB, calls ...seccomp.Call) (c *Caller, listener int) {
	tb.Helper()
	ours, theirs, err := fdconn.Pair()
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = ours.Close() }() // nothing is left to say
	var text []string
	for _, c := range calls {
		text = append(text, fmt.Sprintf("%d/%d", c.Arch, c.NR))
	}
	cmd := exec.Command("/proc/self/exe")
	// A thread in call32 cannot be preempted. With updatemaxprocs the runtime of Go 1.25
	// asks for its CPUs each second, on the thread that wakes all others.
	cmd.Env = append(os.Environ(), callsEnv+"="+strings.Join(text, " "), "GODEBUG=asyncpreemptoff=1,updatemaxprocs=0", "GOGC=off")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	theirs.Close()
	c = &Caller{PID: cmd.Process.Pid, tb: tb, cmd: cmd, in: in, waiting: map[int]*Pending{}}
	c.reap = sync.OnceFunc(func() { _ = cmd.Wait() }) // it says that it was killed
	go c.read(out)
	tb.Cleanup(c.Kill)
	_, fd, err := ours.Receive()
	if err != nil || fd < 0 {
		tb.Fatalf("no listener from the caller: %v", err)
	}
	return c, fd
}

func (c *Caller) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var tag, result, errno int
		if _, err := fmt.Sscan(lines.Text(), &tag, &result, &errno); err != nil {
			c.tb.Errorf("the caller says %q", lines.Text())
			return
		}
		c.mu.Lock()
		p := c.waiting[tag]
		c.mu.Unlock()
		p.result, p.errno = result, unix.Errno(errno)
		close(p.done)
	}
}

// Go has the process make a system call of its own table.
func (c *Caller) Go(nr int, args ...uintptr) *Pending {
	c.tb.Helper()
	return c.send(wordCall, append([]uintptr{uintptr(nr)}, args...))
}

// Call32 has the process make a system call of the table of i386, with 3 arguments at most.
func (c *Caller) Call32(nr int, args ...uintptr) (int, unix.Errno) {
	c.tb.Helper()
	return c.send(wordCall32, append([]uintptr{uintptr(nr)}, args...)).Wait()
}

// Exec has a thread of its own execute sleep.
func (c *Caller) Exec() { c.send(wordExec, nil) }

func (c *Caller) send(word string, args []uintptr) *Pending {
	c.tb.Helper()
	p := &Pending{tb: c.tb, done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tag++
	c.waiting[c.tag] = p
	line := fmt.Sprint(c.tag, " ", word)
	for _, a := range args {
		line += fmt.Sprint(" ", uint64(a))
	}
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		c.tb.Fatal(err)
	}
	return p
}

// Call is Go and Wait.
func (c *Caller) Call(nr int, args ...uintptr) (int, unix.Errno) {
	c.tb.Helper()
	return c.Go(nr, args...).Wait()
}

// Patience is how long a test waits for what should come at once.
const Patience = 30 * time.Second

// Wait returns what the call has returned.
func (p *Pending) Wait() (int, unix.Errno) {
	p.tb.Helper()
	select {
	case <-p.done:
		return p.result, p.errno
	case <-time.After(Patience):
		p.tb.Fatal("a system call has not returned")
		return 0, 0
	}
}

// Returned reports whether the call has returned.
func (p *Pending) Returned() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Map has the process map memory, and returns its address.
func (c *Caller) Map(size, prot, flags int) uintptr {
	c.tb.Helper()
	addr, e := c.Call(unix.SYS_MMAP, 0, uintptr(size), uintptr(prot), uintptr(flags|unix.MAP_ANONYMOUS), ^uintptr(0), 0)
	if e != 0 {
		c.tb.Fatal("mmap: ", e)
	}
	return uintptr(addr)
}

// Peek returns the process's memory.
func (c *Caller) Peek(addr uintptr, size int) []byte {
	c.tb.Helper()
	b := make([]byte, size)
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(size)
	if _, err := unix.ProcessVMReadv(c.PID, local, []unix.RemoteIovec{{Base: addr, Len: size}}, 0); err != nil {
		c.tb.Fatal("process_vm_readv: ", err)
	}
	return b
}

// Poke writes to the process's memory.
func (c *Caller) Poke(addr uintptr, b []byte) {
	c.tb.Helper()
	local := []unix.Iovec{{Base: unsafe.SliceData(b)}}
	local[0].SetLen(len(b))
	if _, err := unix.ProcessVMWritev(c.PID, local, []unix.RemoteIovec{{Base: addr, Len: len(b)}}, 0); err != nil {
		c.tb.Fatal("process_vm_writev: ", err)
	}
}

// Kill kills the process and reaps it. Until then it has its filter before Linux 6.11.
func (c *Caller) Kill() {
	_ = c.cmd.Process.Kill() // an error says that it is gone
	c.reap()
}
