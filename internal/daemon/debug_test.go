// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// listenTestDebug answers at the path until the test ends.
func listenTestDebug(t *testing.T, path string) *debugServer {
	t.Helper()
	d, err := listenDebug(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	go d.serve()
	t.Cleanup(func() { d.listener.Close() })
	return d
}

// askDebug sends a request and returns the answer.
func askDebug(t *testing.T, path, request string) (head string, body []byte) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	all, _ := io.ReadAll(c) // ECONNRESET: not all of the request was read
	h, body, _ := bytes.Cut(all, []byte("\r\n\r\n"))
	return string(h), body
}

// TestProfilesAreThereForRootAlone, in a form that the tools of Go read.
func TestProfilesAreThereForRootAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	listenTestDebug(t, path)
	st, err := os.Stat(path)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %s, %v", st.Mode(), err)
	}
	const gzipped = "\x1f\x8b"
	for target, begin := range map[string]string{
		"heap": gzipped, "goroutine": gzipped, "profile?seconds=0": gzipped, "goroutine?debug=2": "goroutine ",
		"trace?seconds=0": "go 1.", "": "/debug/pprof/",
	} {
		head, body := askDebug(t, path, "GET /debug/pprof/"+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.0 200 OK\r\n") || !bytes.HasPrefix(body, []byte(begin)) {
			t.Errorf("%q: %s: %.20q", target, head, body)
		}
	}
	for _, request := range []string{
		"\n", "GET\n", "POST /debug/pprof/heap HTTP/1.1\r\n\r\n", "GET /debug/pprof/none HTTP/1.1\r\n\r\n", "GET /etc/shadow HTTP/1.1\r\n\r\n",
		"GET /debug/pprof/trace?seconds=61 HTTP/1.1\r\n\r\n", "GET /debug/pprof/trace?seconds=x HTTP/1.1\r\n\r\n", "GET :// HTTP/1.1\r\n\r\n",
		strings.Repeat("x", 2*maxDebugRequest) + "\n", "GET / HTTP/1.1\r\n" + strings.Repeat("x: y\r\n", 2*maxDebugHeaders),
	} {
		if head, body := askDebug(t, path, request); !strings.HasPrefix(head, "HTTP/1.0 400 ") || len(body) == 0 {
			t.Errorf("%.40q: %s: %.20q", request, head, body)
		}
	}
}

// TestTheNextWorkerListensAtTheSamePath, and what is not a socket is left alone.
func TestTheNextWorkerListensAtTheSamePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	first := listenTestDebug(t, path)
	listenTestDebug(t, path)
	first.listener.Close()
	if head, _ := askDebug(t, path, "GET /debug/pprof/ HTTP/1.0\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.0 200 ") {
		t.Error(head)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenDebug(file, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file has been replaced")
	}
}

// TestADebugClientThatHangsIsCutOff.
func TestADebugClientThatHangsIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	d, err := listenDebug(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.listener.Close()
	d.timeout = 10 * time.Millisecond
	go d.serve()
	for range maxDebugClients {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("a client that says nothing: %v", err)
		}
	}
	if head, _ := askDebug(t, path, "GET /debug/pprof/ HTTP/1.0\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.0 200 ") {
		t.Error(head)
	}
}
