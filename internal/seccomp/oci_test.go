// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// state is what runc 1.1 sends, with another number of descriptors and annotations.
func state(fds []string, annotation string) string {
	names, _ := json.Marshal(fds)
	return fmt.Sprintf(`{"ociVersion":"1.0.2-dev","fds":%s,"pid":4712,"metadata":"m","state":{"ociVersion":"1.0.2-dev","id":"web-1","status":"creating","pid":4711,"bundle":"/b","annotations":{"a":%q}}}`, names, annotation)
}

func TestStateOfARuntime(t *testing.T) {
	p, i, err := parseState([]byte(state([]string{"other", "seccompFd"}, "")))
	if want := (Process{Container: "web-1", Init: 4711, PID: 4712, Metadata: "m"}); err != nil || p != want || i != 1 {
		t.Errorf("%+v, listener %d, %v", p, i, err)
	}
	for _, text := range []string{
		"", "{", "[]", "7", state(nil, ""), state([]string{"seccompfd2"}, ""),
		strings.Replace(state([]string{"seccompFd"}, ""), "web-1", strings.Repeat("x", maxName+1), 1),
		strings.Replace(state([]string{"seccompFd"}, ""), `"m"`, `"`+strings.Repeat("x", maxName+1)+`"`, 1),
		strings.Replace(state([]string{"seccompFd"}, ""), "4711", `"4711"`, 1),
	} {
		if p, _, err := parseState([]byte(text)); err == nil {
			t.Errorf("%.100q is %+v", text, p)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(state([]string{"seccompFd"}, "x")))
	f.Add([]byte(`{"fds":["seccompFd","seccompFd"],"state":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, i, err := parseState(text)
		if err == nil && (i < 0 || len(p.Container) > maxName || len(p.Metadata) > maxName) {
			t.Errorf("%+v, listener %d", p, i)
		}
	})
}

// unixPair returns both ends of a connection as a runtime makes it.
func unixPair(t *testing.T, kind string) (runtime, ours *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix(kind, &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: kind})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if runtime, err = net.DialUnix(kind, nil, l.Addr().(*net.UnixAddr)); err == nil {
		ours, err = l.AcceptUnix()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { runtime.Close(); ours.Close() })
	return runtime, ours
}

// openFiles returns the descriptors of this process.
func openFiles(t *testing.T) (fds []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if link, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			fds = append(fds, e.Name()+" "+link)
		}
	}
	return fds
}

func eventfds(t *testing.T, n int) (fds []int) {
	t.Helper()
	for range n {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
	}
	return fds
}

// TestRuntimeThatSendsSomethingElse leaves no descriptor behind.
func TestRuntimeThatSendsSomethingElse(t *testing.T) {
	good := state([]string{"seccompFd"}, "")
	for name, tt := range map[string]struct {
		text string
		fds  int
		want string
	}{
		"another descriptor":   {good, 1, ErrNotListener.Error()},
		"no descriptor":        {good, 0, "descriptor 1 of 0"},
		"too many":             {good, maxRights + 3, "more than"},
		"no state":             {"", 1, "more than 0 bytes or JSON"},
		"half a state":         {good[:40], 1, "unexpected end"},
		"too long":             {state([]string{"seccompFd"}, strings.Repeat("x", maxState)), 1, "longer than"},
		"listener not sent":    {state([]string{"a", "seccompFd"}, ""), 1, "descriptor 2 of 1"},
		"nothing but brackets": {strings.Repeat("[", 5000), 1, "state"},
	} {
		t.Run(name, func(t *testing.T) {
			runtime, ours := unixPair(t, "unix")
			sent := eventfds(t, tt.fds)
			before := openFiles(t)
			go func() {
				text := tt.text
				if len(sent) > 0 {
					_, _, _ = runtime.WriteMsgUnix([]byte("  "), unix.UnixRights(sent...), nil)
				}
				_, _ = runtime.Write([]byte(text)) // the other end may be closed
				_ = runtime.CloseWrite()
			}()
			_, l, err := ReceiveOCI(ours)
			if l != nil || err == nil {
				t.Fatalf("a listener, %v", err)
			}
			if tt.text != "" && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if name == "another descriptor" && !errors.Is(err, ErrNotListener) {
				t.Errorf("%v is not ErrNotListener", err)
			}
			if after := openFiles(t); !slices.Equal(before, after) {
				t.Errorf("descriptors before %q, after %q", before, after)
			}
		})
	}
}
