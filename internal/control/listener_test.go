// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// startListener serves a socket whose requests the test answers.
func startListener(t *testing.T, change func(*Listener)) (*Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path, NoGroup)
	if err != nil {
		t.Fatal(err)
	}
	l.timeout = 200 * time.Millisecond
	if change != nil {
		change(l)
	}
	go l.Serve()
	t.Cleanup(func() { l.Close() })
	return l, path
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func ask(path, verb string, patience time.Duration) error {
	return Ask(path, Request{Verb: verb}, patience, nil)
}

// readAll returns what the holder has sent when it has closed the connection.
func readAll(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the connection is not closed: %v", err)
	}
	return string(b)
}

// TestToConnectAsksForNothing: nor does a client that sends no line, one too long, or
// another than a request. Each is cut off.
func TestToConnectAsksForNothing(t *testing.T) {
	l, path := startListener(t, nil)
	go func() {
		for r := range l.Requests {
			t.Errorf("%s was asked for", r.Verb)
			r.Say(nil)
		}
	}()
	for _, c := range []struct{ name, send, want string }{
		{"nothing", "", "timeout"},
		{"half a line", `{"version":1,"verb":"upgrade"}`, "timeout"},
		{"no JSON", "upgrade\n", "invalid character"},
		{"another version", `{"version":2,"verb":"upgrade"}` + "\n", "version 2, want 1"},
		{"no version", `{"verb":"upgrade"}` + "\n", "version 0, want 1"},
		{"another verb", `{"version":1,"verb":"explode"}` + "\n", `no verb \"explode\"`},
		{"a flood", strings.Repeat("x", 3*maxRequest), "longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dial(t, path)
			io.WriteString(conn, c.send) // an error says that it was cut off
			got := readAll(t, conn)
			if !strings.HasPrefix(got, `{"version":1,"ok":false,"error":"`) || !strings.Contains(got, c.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("a client that hangs up", func(t *testing.T) {
		conn := dial(t, path)
		conn.Close()
	})
	time.Sleep(2 * l.timeout)
}

// TestARequestGetsOneLine of success or failure.
func TestARequestGetsOneLine(t *testing.T) {
	l, path := startListener(t, nil)
	go func() {
		for r := range l.Requests {
			if r.Verb == Ping {
				r.Say(nil)
			} else {
				r.Say(fmt.Errorf("not\nnow"))
			}
		}
	}()
	if err := ask(path, Ping, time.Minute); err != nil {
		t.Error(err)
	}
	if err := ask(path, Upgrade, time.Minute); err == nil || err.Error() != "not; now" {
		t.Errorf("got %v", err)
	}
}

// TestAClientDoesNotWaitForEver for a holder that is stopped, ends, or is not there.
func TestAClientDoesNotWaitForEver(t *testing.T) {
	l, path := startListener(t, nil)
	if err := ask(path, Ping, 100*time.Millisecond); err == nil || !strings.Contains(err.Error(), `no answer to "ping" in 100ms`) {
		t.Errorf("a holder that is stopped: %v", err)
	}
	(<-l.Requests).Say(nil) // that of the client that is gone
	go func() { (<-l.Requests).conn.Close() }()
	if err := ask(path, Ping, time.Minute); err == nil || !strings.Contains(err.Error(), "the daemon has ended") {
		t.Errorf("a holder that ends: %v", err)
	}
	l.Close()
	if err := ask(path, Ping, time.Minute); err == nil || !strings.Contains(err.Error(), "no daemon listens at") {
		t.Errorf("no holder: %v", err)
	}
}

// TestClientsAreBounded: those that are too many are told so, and make no others wait.
func TestClientsAreBounded(t *testing.T) {
	l, path := startListener(t, func(l *Listener) { l.timeout = time.Minute })
	var idle []net.Conn
	for range maxClients {
		idle = append(idle, dial(t, path))
	}
	for len(l.slots) < maxClients {
		time.Sleep(time.Millisecond)
	}
	if got := readAll(t, dial(t, path)); !strings.Contains(got, "too many clients") {
		t.Errorf("one more got %q", got)
	}
	idle[0].Close()
	for len(l.slots) == maxClients {
		time.Sleep(time.Millisecond)
	}
	go func() { (<-l.Requests).Say(nil) }()
	if err := ask(path, Ping, time.Minute); err != nil {
		t.Error(err)
	}
}

// TestAnErrorOfAcceptPasses: clients are accepted when descriptors are there again.
func TestAnErrorOfAcceptPasses(t *testing.T) {
	l, path := startListener(t, func(l *Listener) {
		real, left := l.accept, 5
		l.accept = func() (*net.UnixConn, error) {
			if left--; left >= 0 {
				return nil, &net.OpError{Op: "accept", Err: unix.EMFILE}
			}
			return real()
		}
	})
	go func() { (<-l.Requests).Say(nil) }()
	if err := ask(path, Ping, time.Minute); err != nil {
		t.Error(err)
	}
}

// FuzzRequest: what is no request of this version is an error, and one that is handed on as
// a line is the same again.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"version":1,"verb":"upgrade"}`, `{"version":1,"verb":"ping","more":[1]}`, `{"version":1,"verb":"explain","arg":"1\n"}`, `{"version":"1"}`, "null", "[]", `{"version":1e0,"verb":"\u0070ing"}`, ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Parse(line)
		if (err == nil) != verbs[r.Verb] {
			t.Errorf("%q: verb %q, %v", line, r.Verb, err)
		}
		if err != nil {
			return
		}
		if again, err := Parse(r.Line()); err != nil || again != r || bytes.IndexByte(r.Line(), '\n') >= 0 {
			t.Errorf("%q: %+v, again %+v, %v", line, r, again, err)
		}
	})
}

// FuzzAnswer: whatever a daemon sends is an error or data.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{`{"version":1,"ok":true,"data":{"a":1}}`, `{"ok":false,"error":"x"}`, `{"ok":true}`, "", "{"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var data map[string]any
		err := decode("socket", line, &data)
		if r := (response{}); err == nil && (json.Unmarshal(line, &r) != nil || !r.OK) {
			t.Errorf("%q is no error", line)
		}
	})
}

// TestEachMountPointHasASocketOfItsOwn whose path fits into an address.
func TestEachMountPointHasASocketOfItsOwn(t *testing.T) {
	long := "/" + strings.Repeat("a", 200)
	seen := map[string]string{}
	for _, dir := range []string{"/", "/var/lib/vprocfs", "/var-lib-vprocfs", "/var/lib-vprocfs", `/var\x2dlib`, "/.a", "/ä", "/a b", long + "b", long + "c", "/b" + long, "/a\nb"} {
		path := Path(dir)
		if other, ok := seen[path]; ok || len(path) > 107 || filepath.Dir(path) != Dir || strings.ContainsAny(path, " \n") {
			t.Errorf("%q: %q, as %q has", dir, path, other)
		}
		seen[path] = dir
	}
	if got := Path("/var/lib/vprocfs/"); got != "/run/vprocfs/var-lib-vprocfs.sock" {
		t.Errorf("got %s", got)
	}
}

// TestAClientThatIsHandedOnGetsItsAnswer from the other process, and frees its place.
func TestAClientThatIsHandedOnGetsItsAnswer(t *testing.T) {
	l, path := startListener(t, nil)
	go func() {
		(<-l.Requests).HandOn(func(string, int) error { return fmt.Errorf("nobody there") })
		(<-l.Requests).HandOn(func(line string, fd int) error {
			dup, err := unix.Dup(fd)
			if err != nil {
				return err
			}
			c, err := NewClient(os.NewFile(uintptr(dup), "client"), line)
			if err == nil {
				go c.Answer(map[string]string{"pid": c.Arg}, nil)
			}
			return err
		})
	}()
	r := Request{Verb: Explain, Arg: "17"}
	if err := Ask(path, r, time.Minute, nil); err == nil || err.Error() != "nobody there" {
		t.Errorf("got %v", err)
	}
	var data map[string]string
	if err := Ask(path, r, time.Minute, &data); err != nil || data["pid"] != "17" {
		t.Errorf("got %v, %v", data, err)
	}
	for len(l.slots) > 0 {
		time.Sleep(time.Millisecond)
	}
}

// TestAClientThatDoesNotReadIsCutOff: its answer is larger than the socket's buffer.
func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	l, path := startListener(t, nil)
	c := dial(t, path)
	io.WriteString(c, string(Request{Version: Version, Verb: Stats}.Line())+"\n")
	(<-l.Requests).Answer(strings.Repeat("x", 4<<20), nil) // returns
	if got := readAll(t, c); len(got) >= 4<<20 {
		t.Errorf("%d bytes", len(got))
	}
}

// TestAMemberOfTheGroupMayLookAndNotTouch, and nobody else may do either.
func TestAMemberOfTheGroupMayLookAndNotTouch(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	const group = 4321
	path := filepath.Join(dir, "socket")
	l, err := Listen(path, group)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go l.Serve()
	go func() {
		for c := range l.Requests {
			c.Say(nil)
		}
	}()
	as := func(uid, gid int, groups []int, verb string) error {
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
			for _, call := range [][4]uintptr{
				{unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(toUint32(groups)))), 0},
				{unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
				{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
			} {
				if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
					err = errno
					return
				}
			}
			err = connectAndAsk(path, verb)
		}()
		<-done
		return err
	}
	for _, c := range []struct {
		name     string
		uid, gid int
		groups   []int
		verb     string
		may      bool
	}{
		{"root upgrades", 0, 0, nil, Upgrade, true},
		{"a member looks", 1234, group, nil, Status, true},
		{"a member by a further group looks", 1234, 1234, []int{7, group}, Stats, true},
		{"a member upgrades", 1234, group, nil, Upgrade, false},
		{"a member changes the log", 1234, group, nil, LogLevel, false},
		{"a stranger looks", 1234, 1234, []int{7}, Status, false},
	} {
		if err := as(c.uid, c.gid, c.groups, c.verb); (err == nil) != c.may || err != nil && !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func toUint32(ids []int) (all []uint32) {
	for _, id := range ids {
		all = append(all, uint32(id))
	}
	return all
}

// connectAndAsk is Ask with raw system calls, on the calling thread.
func connectAndAsk(path, verb string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if _, err := unix.Write(fd, append(Request{Version: Version, Verb: verb}.Line(), '\n')); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil {
		return err
	}
	return decode(path, b[:n], nil)
}
