// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startForker makes a forker and opens the namespace of c.
func startForker(t *testing.T, c *container) (f *forker, nsfd int) {
	t.Helper()
	f, err := newForker(1)
	must(err)
	t.Cleanup(f.close)
	nsfd, err = unix.Open(fmt.Sprintf("/proc/%d/ns/pid", c.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(err)
	t.Cleanup(func() { unix.Close(nsfd) })
	return f, nsfd
}

// blocked is a helper whose child sits in its sendmsg, since the socket is
// full, until drain makes room.
type blocked struct {
	*helper
	child int
	full  int // messages in the way
}

func startBlocked(t *testing.T, f *forker, nsfd int) *blocked {
	t.Helper()
	ours, theirs, err := socketpair()
	must(err)
	b := &blocked{}
	for {
		if _, err := unix.SendmsgN(int(theirs.Fd()), []byte{0xff}, nil, nil, unix.MSG_DONTWAIT); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		b.full++
	}
	if b.helper, err = f.start(nsfd, ours, theirs); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the helper's child to block", func() bool {
		kids := childrenOf(b.pid)
		if len(kids) == 1 {
			b.child = kids[0]
		}
		return b.child != 0 && stateOf(b.child) == 'S'
	})
	return b
}

func (b *blocked) drain(t *testing.T) {
	t.Helper()
	for range b.full {
		if _, _, err := b.receive(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantEnded waits until no process of pids runs any more. A child whose helper
// was killed is left to the machine's init to reap, which takes its time.
func wantEnded(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d to end", pid), func() bool {
			s := stateOf(pid)
			return s == 0 || s == 'Z' || s == 'X'
		})
	}
}

// wantReaped checks that the helper is not even a zombie.
func (b *blocked) wantReaped(t *testing.T) {
	t.Helper()
	if s := statField(b.pid, 4); s == strconv.Itoa(os.Getpid()) {
		t.Errorf("helper %d is still our child, state %c", b.pid, stateOf(b.pid))
	}
}

// soon fails the test if what has started then was not quick, which is far less
// than the deadline it ran under.
func soon(t *testing.T, start time.Time) {
	t.Helper()
	if d := time.Since(start); d > patience/4 {
		t.Errorf("took %v of a deadline of %v", d, patience)
	}
}

func TestForkAnswersAtOnceWhenChildIsKilled(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	b := startBlocked(t, f, nsfd)
	must(unix.Kill(b.child, unix.SIGKILL))
	wantEnded(t, b.child) // else it may still find room to send
	start := time.Now()
	b.drain(t)
	_, err := b.answer(start.Add(patience))
	soon(t, start)
	if !errors.Is(err, errChildKilled) || !errors.Is(err, ErrHelper) {
		t.Errorf("answer: %v, want that the child was killed", err)
	}
	b.end()
	b.wantReaped(t)
	wantEnded(t, b.child)
}

func TestForkAnswersAtOnceWhenHelperAndChildAreKilled(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	b := startBlocked(t, f, nsfd)
	must(unix.Kill(b.pid, unix.SIGKILL))
	must(unix.Kill(b.child, unix.SIGKILL))
	wantEnded(t, b.child) // else it may still find room to send
	start := time.Now()
	b.drain(t)
	_, err := b.answer(start.Add(patience))
	soon(t, start)
	wantErr(t, "answer", err, ErrHelper)
	b.end()
	b.wantReaped(t)
	wantEnded(t, b.child)
}

func TestForkAnswersWhenOnlyHelperIsKilled(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	b := startBlocked(t, f, nsfd)
	must(unix.Kill(b.pid, unix.SIGKILL))
	start := time.Now()
	b.drain(t)
	pid, err := b.answer(start.Add(patience))
	soon(t, start)
	if pid != c.pid || err != nil {
		t.Errorf("answer: %d, %v; want %d", pid, err, c.pid)
	}
	b.end()
	b.wantReaped(t)
	wantEnded(t, b.child)
}

// TestForkDoesNotWaitForAStoppedChild: a container's root can stop it, and whoever is
// next would have to wait.
func TestForkDoesNotWaitForAStoppedChild(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	b := startBlocked(t, f, nsfd)
	must(unix.Kill(b.child, unix.SIGSTOP))
	wantEnded(t, b.child)
	start := time.Now()
	b.drain(t)
	_, err := b.answer(start.Add(patience))
	soon(t, start)
	wantErr(t, "answer", err, ErrHelper)
	b.end()
	b.wantReaped(t)
	wantEnded(t, b.child)
}

func TestForkLeavesNoDescriptorAndNoProcess(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	before := openFiles()
	for mode, want := range map[string]error{
		helperArg: nil, "bad-helper-silent": ErrHelper, "bad-helper-garbage": ErrHelper, "bad-helper-hang": ErrTimeout, "no binary": ErrHelper,
	} {
		f.arg, f.exe = mode, "/proc/self/exe"
		start, timeout := time.Now(), patience
		switch mode {
		case "no binary":
			f.exe = "/nonexistent"
		case "bad-helper-hang":
			timeout = 100 * time.Millisecond
		}
		pid, err := f.find(nsfd, timeout)
		if !errors.Is(err, want) || want == nil && pid != c.pid {
			t.Errorf("%s: %d, %v; want %v", mode, pid, err, want)
		}
		if d := time.Since(start); want != ErrTimeout && d > patience/2 {
			t.Errorf("%s: took %v", mode, d)
		}
		if after := openFiles(); len(after) != len(before) {
			t.Errorf("%s: descriptors before %v, after %v", mode, before, after)
		}
	}
	for _, kid := range childrenOf(os.Getpid()) {
		if kid != c.pid {
			t.Errorf("child %d is left, state %c", kid, stateOf(kid))
		}
	}
}

func TestForkSaysWhichStepFailed(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, _ := startForker(t, c)
	null, err := os.Open("/dev/null")
	must(err)
	defer null.Close()
	_, err = f.find(int(null.Fd()), patience)
	if !errors.Is(err, ErrHelper) && !errors.Is(err, ErrNotVisible) || !strings.Contains(err.Error(), ": setns: ") {
		t.Errorf("find on /dev/null: %v, want a failed setns", err)
	}
}

func TestForkIntoDeadNamespaceIsNoInit(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	c.end()
	_, err := f.find(nsfd, patience)
	wantErr(t, "find", err, ErrNoInit)
}

func TestForksAreBounded(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	f.slots <- struct{}{}
	f.turn = 10 * time.Millisecond
	_, err := f.find(nsfd, 10*time.Millisecond)
	wantErr(t, "find without a free slot", err, ErrTimeout)
	<-f.slots
	f.turn = 10 * patience
	var most, failed atomic.Int32
	stop := make(chan struct{})
	var watch, askers sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				most.Store(max(most.Load(), int32(len(childrenOf(os.Getpid())))-1)) // less c
				time.Sleep(time.Millisecond)                                        // leave the helpers some CPU
			}
		}
	})
	for range 10 {
		askers.Go(func() {
			// They come one after another.
			if pid, err := f.find(nsfd, 10*patience); pid != c.pid || err != nil {
				failed.Add(1)
			}
		})
	}
	askers.Wait()
	close(stop)
	watch.Wait()
	if failed.Load() != 0 || most.Load() > 1 {
		t.Errorf("%d of 10 failed, %d helpers at once; want 0 and at most 1", failed.Load(), most.Load())
	}
}

// inherited are the targets of our descriptors that are not close-on-exec:
// whoever started us left them to us and to our children.
func inherited(t *testing.T) map[string]bool {
	t.Helper()
	targets := map[string]bool{}
	for _, file := range openFiles() {
		num, to, _ := strings.Cut(file, ":")
		fd, err := strconv.Atoi(num)
		must(err)
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			targets[to] = true
		}
	}
	return targets
}

func TestHelperHoldsNothingButItsOwnDescriptors(t *testing.T) {
	c := startContainer(t, "init", newPIDNS)
	f, nsfd := startForker(t, c)
	left := inherited(t)
	b := startBlocked(t, f, nsfd)
	defer b.end()
	for _, pid := range []int{b.pid, b.child} {
		for fd, want := range []string{"/dev/null", "/dev/null", "/dev/null", "pid:[", "socket:["} {
			to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
			if err != nil || !strings.HasPrefix(to, want) {
				t.Errorf("process %d: descriptor %d is %q, %v; want %s", pid, fd, to, err, want)
			}
		}
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		must(err)
		for _, l := range links {
			fd, err := strconv.Atoi(filepath.Base(l))
			must(err)
			to, err := os.Readlink(l)
			must(err)
			// The Go runtime reads its CPU limit from the cgroup, and has an epoll.
			runtimes := strings.HasPrefix(to, "/sys/fs/cgroup/") || strings.HasPrefix(to, "anon_inode:[event")
			if fd > helperSock && !runtimes && !left[to] {
				t.Errorf("process %d holds %s", pid, to)
			}
		}
	}
	b.drain(t)
	if pid, err := b.answer(time.Now().Add(patience)); pid != c.pid || err != nil {
		t.Errorf("answer: %d, %v; want %d", pid, err, c.pid)
	}
}

// peek prints, for each other process of its pid namespace, whether its binary
// can be had through /proc.
func peek() {
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("proc", "/proc", "proc", 0, ""))
	fmt.Print("ready")
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid := filepath.Base(d)
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		_, linkErr := os.Readlink(d + "/exe")
		fd, openErr := unix.Open(d+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
		if openErr == nil {
			unix.Close(fd)
		}
		fmt.Printf(" %s:%t:%t", pid, errors.Is(linkErr, unix.EACCES), openErr == unix.EACCES)
	}
	fmt.Println()
}

// TestContainerRootGetsNoHandleOnOurBinary has everyone run as uid 0 with one
// set of capabilities, without CAP_SYS_PTRACE: then only "not dumpable" keeps
// the container's processes from the helper's child. Its init is the control.
func TestContainerRootGetsNoHandleOnOurBinary(t *testing.T) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never undone: the thread goes with the goroutine
		defer close(done)
		must(unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_PTRACE, 0, 0, 0))
		c := startContainer(t, "init", newPIDNS)
		f, nsfd := startForker(t, c)
		b := startBlocked(t, f, nsfd)
		must(unix.Setns(nsfd, unix.CLONE_NEWPID))
		peeker := startCmd(t, "peek", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS})
		seen := strings.Fields(peeker.said)
		if len(seen) != 2 || seen[0] != "1:false:false" || !strings.HasSuffix(seen[1], ":true:true") {
			t.Errorf("pid:link refused:open refused = %v; want the init to be open and the helper's child not", seen)
		}
		b.drain(t)
		if pid, err := b.answer(time.Now().Add(patience)); pid != c.pid || err != nil {
			t.Errorf("answer: %d, %v; want %d", pid, err, c.pid)
		}
		b.end()
		peeker.end()
	}()
	<-done
}

func FuzzAnswerIsAPIDOrAnError(f *testing.F) {
	f.Add([]byte{0}, int32(7))
	f.Add([]byte("\x01clone: cannot allocate memory"), int32(7))
	f.Add([]byte("\x03killed"), int32(7))
	f.Add([]byte("\x05"), int32(7))
	f.Fuzz(func(t *testing.T, msg []byte, pid int32) {
		if len(msg) == 0 { // receive never gives that
			return
		}
		got, err := parseAnswer(msg, &unix.Ucred{Pid: pid})
		if (got != 0) != (err == nil) {
			t.Errorf("parseAnswer(%x) = %d, %v", msg, got, err)
		}
		if err != nil && !errors.Is(err, ErrNoInit) && !errors.Is(err, ErrHelper) && !errors.Is(err, ErrNotVisible) {
			t.Errorf("parseAnswer(%x): %v has no name", msg, err)
		}
	})
}
