// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/internal/seccomp"
	"vprocfs/internal/seccomp/seccomptest"
	"vprocfs/internal/syscalls"
)

// keepCalls returns a keeper that runs, what it offers, and its descriptors.
func keepCalls(t *testing.T, dir string, kept map[string]*os.File) (k *callKeeper, offered chan string, files map[string]*os.File) {
	t.Helper()
	files, offered = make(map[string]*os.File), make(chan string, 100)
	k = (&Options{Syscalls: true}).newCallKeeper(dir, kept, files, slog.New(slog.DiscardHandler))
	if k == nil || k.socket == nil {
		t.Fatal("no keeper")
	}
	t.Cleanup(func() {
		k.socket.Close()
		_ = os.Remove(k.path)
	})
	go k.run(func(name string, f *os.File) {
		t.Cleanup(func() { f.Close() })
		offered <- name
	})
	return k, offered, files
}

// handOver sends the listener of a new process to the socket.
func handOver(t *testing.T, k *callKeeper, container string) {
	t.Helper()
	_, fd := seccomptest.StartFD(t, syscalls.Calls()...)
	defer unix.Close(fd)
	if err := seccomp.SendOCI(k.path, seccomp.Process{Container: container}, fd); err != nil {
		t.Fatal(err)
	}
}

func wantOffer(t *testing.T, offered chan string) (name string) {
	t.Helper()
	select {
	case name = <-offered:
	case <-time.After(seccomptest.Patience):
		t.Fatal("no listener is offered")
	}
	if _, ok := syscalls.ParseName(name); !ok {
		t.Errorf("offered as %q", name)
	}
	return name
}

func ownFiles(t *testing.T) (names []string) {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range d {
		link, _ := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		names = append(names, link)
	}
	return names
}

// TestTheSocketOfCallsTakesListenersOnly: what else is sent leaves nothing behind.
func TestTheSocketOfCallsTakesListenersOnly(t *testing.T) {
	k, offered, _ := keepCalls(t, t.TempDir(), map[string]*os.File{})
	state := func(fds ...string) []byte {
		text, err := json.Marshal(map[string]any{"fds": fds, "state": map[string]any{"id": "hostile"}})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null := int(file.Fd())
	nulls := func() int { return strings.Count(strings.Join(ownFiles(t), "\n"), "/dev/null") }
	before := nulls()
	for name, send := range map[string]func(*net.UnixConn) error{
		"nothing":       func(*net.UnixConn) error { return nil },
		"garbage":       func(c *net.UnixConn) error { _, err := c.Write([]byte("}{")); return err },
		"no descriptor": func(c *net.UnixConn) error { _, err := c.Write(state("seccompFd")); return err },
		"another file": func(c *net.UnixConn) error {
			_, _, err := c.WriteMsgUnix(state("seccompFd"), unix.UnixRights(null), nil)
			return err
		},
		"no name": func(c *net.UnixConn) error {
			_, _, err := c.WriteMsgUnix(state("other"), unix.UnixRights(null), nil)
			return err
		},
		"the socket": func(c *net.UnixConn) error {
			_, _, err := c.WriteMsgUnix(state("seccompFd"), unix.UnixRights(rawFD(t, c)), nil)
			return err
		},
		"too many of them": func(c *net.UnixConn) error {
			_, _, err := c.WriteMsgUnix(state(slices.Repeat([]string{"seccompFd"}, 200)...), unix.UnixRights(slices.Repeat([]int{null}, 200)...), nil)
			return err
		},
	} {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: k.path, Net: "unix"})
		if err != nil {
			t.Fatal(name, err)
		}
		if err := send(c); err != nil {
			t.Error(name, err)
		}
		c.Close()
	}
	handOver(t, k, "good")
	wantOffer(t, offered)
	if s := k.status(); s.Listeners != 1 || s.Socket != k.path {
		t.Errorf("%+v", s)
	}
	// All those before it are done with when nobody has a slot any more.
	k.pause()()
	if n := nulls(); n != before {
		t.Errorf("%d descriptors of /dev/null, were %d", n, before)
	}
}

func rawFD(t *testing.T, c *net.UnixConn) (fd int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(n uintptr) { fd = int(n) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestNoRuntimeIsLostBetweenTwoHolders: those who connect while there is none wait for the
// next, and the listeners of the former are watched on.
func TestNoRuntimeIsLostBetweenTwoHolders(t *testing.T) {
	dir := t.TempDir()
	first, offered, files := keepCalls(t, dir, map[string]*os.File{})
	handOver(t, first, "first")
	name := wantOffer(t, offered)
	first.pause() // it ends, as far as runtimes can tell
	handOver(t, first, "second")
	select {
	case name := <-offered:
		t.Errorf("%s is offered by a holder that pauses", name)
	case <-time.After(100 * time.Millisecond):
	}
	kept := make(map[string]*os.File)
	for name, f := range files {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		kept[name] = os.NewFile(uintptr(fd), name)
	}
	_, fd := seccomptest.StartFD(t, syscalls.Calls()...) // stands for that of the first
	kept[name] = os.NewFile(uintptr(fd), name)
	second, offered, _ := keepCalls(t, dir, kept)
	if again := wantOffer(t, offered); again == name {
		t.Errorf("%s is the name of two listeners", name)
	}
	handOver(t, second, "third")
	wantOffer(t, offered)
	if s := second.status(); s.Listeners != 3 || s.Socket != control.SeccompPath(dir) {
		t.Errorf("%+v", s)
	}
}

// TestWithoutSyscallsTheListenersAreKept, and no new ones are taken.
func TestWithoutSyscallsTheListenersAreKept(t *testing.T) {
	dir := t.TempDir()
	k, offered, files := keepCalls(t, dir, map[string]*os.File{})
	handOver(t, k, "first")
	wantOffer(t, offered)
	next := make(map[string]*os.File)
	other := new(Options).newCallKeeper(dir, files, next, slog.New(slog.DiscardHandler))
	if other == nil || other.socket != nil || next[fileCallsSocket] != nil || next[fileCalls] == nil {
		t.Errorf("%+v, %v", other, next)
	}
	if none := new(Options).newCallKeeper(dir, map[string]*os.File{}, next, slog.New(slog.DiscardHandler)); none != nil {
		t.Errorf("%+v", none)
	}
	if none := (*callKeeper)(nil).status(); none != nil {
		t.Error(none)
	}
}
