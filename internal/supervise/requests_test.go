package supervise

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startListener serves a socket whose requests the test answers.
func startListener(t *testing.T, change func(*listener)) (*listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := listen(path, make(chan *replyTo))
	if err != nil {
		t.Fatal(err)
	}
	l.timeout = 200 * time.Millisecond
	if change != nil {
		change(l)
	}
	go l.serve()
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
		for r := range l.requests {
			t.Errorf("%s was asked for", r.verb)
			r.say(nil)
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
		for r := range l.requests {
			if r.verb == verbPing {
				r.say(nil)
			} else {
				r.say(fmt.Errorf("not\nnow"))
			}
		}
	}()
	if err := ask(path, verbPing, time.Minute); err != nil {
		t.Error(err)
	}
	if err := ask(path, verbUpgrade, time.Minute); err == nil || err.Error() != "not; now" {
		t.Errorf("got %v", err)
	}
}

// TestAClientDoesNotWaitForEver for a holder that is stopped, ends, or is not there.
func TestAClientDoesNotWaitForEver(t *testing.T) {
	l, path := startListener(t, nil)
	if err := ask(path, verbPing, 100*time.Millisecond); err == nil || !strings.Contains(err.Error(), `no answer to "ping" in 100ms`) {
		t.Errorf("a holder that is stopped: %v", err)
	}
	(<-l.requests).say(nil) // that of the client that is gone
	go func() { (<-l.requests).conn.Close() }()
	if err := ask(path, verbPing, time.Minute); err == nil || !strings.Contains(err.Error(), "the daemon has ended") {
		t.Errorf("a holder that ends: %v", err)
	}
	l.Close()
	if err := ask(path, verbPing, time.Minute); err == nil || !strings.Contains(err.Error(), "no daemon listens at") {
		t.Errorf("no holder: %v", err)
	}
}

// TestClientsAreBounded: those that are too many are told so, and make no others wait.
func TestClientsAreBounded(t *testing.T) {
	l, path := startListener(t, func(l *listener) { l.timeout = time.Minute })
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
	go func() { (<-l.requests).say(nil) }()
	if err := ask(path, verbPing, time.Minute); err != nil {
		t.Error(err)
	}
}

// TestAnErrorOfAcceptPasses: clients are accepted when descriptors are there again.
func TestAnErrorOfAcceptPasses(t *testing.T) {
	l, path := startListener(t, func(l *listener) {
		real, f := l.accept, &faults{unix.EMFILE, 5}
		l.accept = func() (*net.UnixConn, error) {
			if err := f.fail(); err != nil {
				return nil, &net.OpError{Op: "accept", Err: err}
			}
			return real()
		}
	})
	go func() { (<-l.requests).say(nil) }()
	if err := ask(path, verbPing, time.Minute); err != nil {
		t.Error(err)
	}
}

// FuzzRequest: what is no request of this version is an error.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"version":1,"verb":"upgrade"}`, `{"version":1,"verb":"ping","more":[1]}`, `{"version":"1"}`, "null", "[]", `{"version":1e0,"verb":"\u0070ing"}`, ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		verb, err := parseRequest(line)
		if (err == nil) != (verb == verbPing || verb == verbUpgrade) {
			t.Errorf("%q: verb %q, %v", line, verb, err)
		}
		// As a client, the same bytes are one line at most, and get the same answer.
		if bytes.IndexByte(line, '\n') >= 0 || len(line) >= maxRequest {
			return
		}
		got, readErr := bufio.NewReaderSize(bytes.NewReader(append(line, '\n')), maxRequest).ReadSlice('\n')
		if readErr != nil || len(got) != len(line)+1 {
			t.Errorf("%q: read %q, %v", line, got, readErr)
		}
		if again, errAgain := parseRequest(got); again != verb || (err == nil) != (errAgain == nil) {
			t.Errorf("%q: %q, %v; as a line %q, %v", line, verb, err, again, errAgain)
		}
	})
}
