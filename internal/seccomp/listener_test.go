// SPDX-License-Identifier: Apache-2.0

package seccomp_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/seccomp"
	"vprocfs/internal/seccomp/seccomptest"
)

// getppid is a call of this machine's own table that the Go runtime does not use.
func getppid() seccomp.Call {
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	return seccomp.Call{NR: unix.SYS_GETPPID, Arch: arch}
}

// receive returns the next notification.
func receive(t *testing.T, l *seccomp.Listener) *seccomp.Notification {
	t.Helper()
	var n seccomp.Notification
	got := make(chan error, 1)
	go func() { got <- l.Receive(&n) }()
	select {
	case err := <-got:
		if err != nil {
			t.Fatal("receive: ", err)
		}
	case <-time.After(seccomptest.Patience):
		t.Fatal("no notification")
	}
	return &n
}

func send(t *testing.T, l *seccomp.Listener, r seccomp.Response) {
	t.Helper()
	if err := l.Send(&r); err != nil {
		t.Fatal("send: ", err)
	}
}

func TestCallsAreAnswered(t *testing.T) {
	c := seccomptest.Start(t, getppid())
	p := c.Go(unix.SYS_GETPPID, 1, 2, 3, 4, 5, 6)
	n := receive(t, c.Listener)
	if n.Call != getppid() || n.Args != [6]uint64{1, 2, 3, 4, 5, 6} || !c.Listener.Valid(n.ID) {
		t.Errorf("notification %+v, valid %v", n, c.Listener.Valid(n.ID))
	}
	if p.Returned() {
		t.Error("the call has not waited")
	}
	send(t, c.Listener, n.Return(4711))
	if r, e := p.Wait(); r != 4711 || e != 0 {
		t.Errorf("%d, %v", r, e)
	}
	if c.Listener.Valid(n.ID) {
		t.Error("a call that was answered is valid")
	}

	p = c.Go(unix.SYS_GETPPID)
	send(t, c.Listener, receive(t, c.Listener).Continue())
	if r, e := p.Wait(); r != os.Getpid() || e != 0 {
		t.Errorf("%d, %v instead of what the kernel returns", r, e)
	}
	// Others are not asked about.
	if r, e := c.Call(unix.SYS_GETPID); r != c.PID || e != 0 {
		t.Errorf("%d, %v", r, e)
	}
}

func TestManyCallsWaitAtOnce(t *testing.T) {
	c := seccomptest.Start(t, getppid())
	var calls []*seccomptest.Pending
	for i := range 50 {
		calls = append(calls, c.Go(unix.SYS_GETPPID, uintptr(i)))
	}
	for range calls {
		n := receive(t, c.Listener)
		send(t, c.Listener, n.Return(int64(n.Args[0]+1)))
	}
	for i, p := range calls {
		if r, e := p.Wait(); r != i+1 || e != 0 {
			t.Errorf("call %d: %d, %v", i, r, e)
		}
	}
}

func TestEndOfTheLastThreadEndsTheListener(t *testing.T) {
	c := seccomptest.Start(t, getppid())
	received := make(chan error, 1)
	go func() { received <- c.Listener.Receive(new(seccomp.Notification)) }()
	c.Kill()
	select {
	case err := <-received:
		if err != io.EOF {
			t.Errorf("%v instead of EOF", err)
		}
	case <-time.After(seccomptest.Patience):
		t.Error("the listener has not ended")
	}
}

func TestCallerThatIsKilledOrExecutesIsNotValid(t *testing.T) {
	for name, end := range map[string]func(*seccomptest.Caller){"kill": (*seccomptest.Caller).Kill, "exec": (*seccomptest.Caller).Exec} {
		t.Run(name, func(t *testing.T) {
			c := seccomptest.Start(t, getppid())
			c.Go(unix.SYS_GETPPID)
			n := receive(t, c.Listener)
			end(c)
			for begun := time.Now(); c.Listener.Valid(n.ID); time.Sleep(time.Millisecond) {
				if time.Since(begun) > seccomptest.Patience {
					t.Fatal("the call is still valid")
				}
			}
			r := n.Return(0)
			if err := c.Listener.Send(&r); err != unix.ENOENT {
				t.Errorf("send: %v instead of ENOENT", err)
			}
		})
	}
}

func TestCloseEndsReceive(t *testing.T) {
	c := seccomptest.Start(t, getppid())
	received := make(chan error, 1)
	go func() { received <- c.Listener.Receive(new(seccomp.Notification)) }()
	time.Sleep(10 * time.Millisecond) // either order is right
	if err := c.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-received:
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%v instead of ErrClosed", err)
		}
	case <-time.After(seccomptest.Patience):
		t.Error("Receive still waits")
	}
}

// TestOtherFilesAreNoListeners has the kinds of descriptors that somebody may send.
func TestOtherFilesAreNoListeners(t *testing.T) {
	dir := t.TempDir()
	file := func(path string) int {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	must := func(fd int, err error) int {
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	fds := map[string]int{
		"file":       file(dir + "/f"),
		"false name": file(dir + "/anon_inode:seccomp notify"),
		"device":     file("/dev/null"),
		"memfd":      must(unix.MemfdCreate("anon_inode:seccomp notify", unix.MFD_CLOEXEC)),
		"eventfd":    must(unix.Eventfd(0, unix.EFD_CLOEXEC)),
		"epoll":      must(unix.EpollCreate1(unix.EPOLL_CLOEXEC)),
		"socket":     must(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)),
		"pidfd":      must(unix.PidfdOpen(os.Getpid(), 0)),
	}
	for name, fd := range fds {
		if _, err := seccomp.NewListener(fd); !errors.Is(err, seccomp.ErrNotListener) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("%s: not closed", name)
		}
	}
	if _, err := seccomp.NewListener(-1); err == nil {
		t.Error("-1 is a listener")
	}
}

// TestRuntimeHandsOverAListener sends what an OCI runtime sends, piece by piece.
func TestRuntimeHandsOverAListener(t *testing.T) {
	caller, fd := seccomptest.StartFD(t, getppid())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	text := `{"ociVersion":"1.0.2","fds":["seccompFd"],"pid":2,"state":{"id":"web","pid":1,"annotations":{"a":"{}"}}}`
	if _, _, err := c.WriteMsgUnix([]byte(text[:20]), unix.UnixRights(fd), nil); err != nil {
		t.Fatal(err)
	}
	go c.Write([]byte(text[20:])) // and it stays open
	unix.Close(fd)
	p, listener, err := seccomp.ReceiveOCI(accepted)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if want := (seccomp.Process{Container: "web", Init: 1, PID: 2}); p != want {
		t.Errorf("%+v", p)
	}
	pending := caller.Go(unix.SYS_GETPPID)
	send(t, listener, receive(t, listener).Return(5))
	if r, e := pending.Wait(); r != 5 || e != 0 {
		t.Errorf("%d, %v", r, e)
	}
}
