// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime/pprof"
	"runtime/trace"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what clients of the debug socket may do.
const (
	maxDebugClients = 4
	maxDebugRequest = 4096 // bytes of a line
	maxDebugHeaders = 64   // lines
	debugTimeout    = 10 * time.Second
	maxDebugSeconds = 60
)

// debugServer answers GET requests for profiles of this process. It speaks as much of
// HTTP/1.0 as curl needs: package net/http would make the program half as large again.
type debugServer struct {
	listener *net.UnixListener
	log      *slog.Logger
	slots    chan struct{}
	timeout  time.Duration // for a request, and for a client to take what it has asked for
}

// listenDebug listens at path for root only, in place of what a former worker has left.
func listenDebug(path string, log *slog.Logger) (*debugServer, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// The mode of a socket that is not bound yet is that of its file (unix_bind,
	// net/unix/af_unix.c), so that nobody else can connect for a moment.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, controlErr)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false) // the next worker may listen already
	return &debugServer{u, log, make(chan struct{}, maxDebugClients), debugTimeout}, nil
}

// serve answers clients until the process ends.
func (d *debugServer) serve() {
	for {
		c, err := d.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // of descriptors that are short
			time.Sleep(time.Second)
			continue
		}
		select {
		case d.slots <- struct{}{}:
			go func() {
				defer func() { <-d.slots }()
				d.answer(c)
			}()
		default:
			_ = c.Close()
		}
	}
}

// answer answers one request.
func (d *debugServer) answer(c net.Conn) {
	defer func() { _ = c.Close() }() // all is written, or the client is gone
	_ = c.SetReadDeadline(time.Now().Add(d.timeout))
	r := &reply{conn: c, timeout: d.timeout}
	target, err := readTarget(c)
	if err == nil {
		err = writeProfile(r, target)
	}
	if err == nil {
		d.log.Info("a profile was made", "target", target)
	} else if !r.begun {
		r.begin("400 Bad Request")
		_, _ = fmt.Fprintln(r, err) // the client is gone, or slow
	}
}

// reply is the answer to a client: what is written, after a head that is not written before.
// A write fails if the client does not read.
type reply struct {
	conn    net.Conn
	timeout time.Duration
	begun   bool
}

func (r *reply) begin(status string) {
	r.begun = true
	_ = r.conn.SetWriteDeadline(time.Now().Add(r.timeout))
	_, _ = fmt.Fprintf(r.conn, "HTTP/1.0 %s\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n", status) // an error comes again
}

func (r *reply) Write(p []byte) (int, error) {
	if !r.begun {
		r.begin("200 OK")
	}
	_ = r.conn.SetWriteDeadline(time.Now().Add(r.timeout))
	return r.conn.Write(p)
}

// readTarget returns what a request asks for.
func readTarget(c io.Reader) (string, error) {
	r := bufio.NewReaderSize(c, maxDebugRequest)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	words := strings.Fields(string(line))
	if len(words) != 3 || words[0] != "GET" {
		return "", errors.New("request: only GET is known")
	}
	for range maxDebugHeaders {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", fmt.Errorf("headers: %w", err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			return words[1], nil
		}
	}
	return "", errors.New("headers: too many")
}

// profilesPath is where profiles are, as with package net/http/pprof.
const profilesPath = "/debug/pprof/"

// writeProfile writes what the target, /debug/pprof/NAME?seconds=N, asks for.
func writeProfile(w io.Writer, target string) error {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return err
	}
	name, ok := strings.CutPrefix(u.Path, profilesPath)
	if !ok {
		return fmt.Errorf("%s: not below %s", u.Path, profilesPath)
	}
	number := func(key string, most, otherwise int) (int, error) {
		text := u.Query().Get(key)
		if text == "" {
			return otherwise, nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > most {
			return 0, fmt.Errorf("%s is %q: must be a number up to %d", key, text, most)
		}
		return n, nil
	}
	switch name {
	case "":
		return listProfiles(w)
	case "profile", "trace":
		seconds, err := number("seconds", maxDebugSeconds, 5)
		if err != nil {
			return err
		}
		return record(w, name, time.Duration(seconds)*time.Second)
	}
	p := pprof.Lookup(name)
	if p == nil {
		return fmt.Errorf("no profile %q", name)
	}
	debug, err := number("debug", 2, 0)
	if err != nil {
		return err
	}
	return p.WriteTo(w, debug)
}

// record writes a CPU profile or an execution trace of so long.
func record(w io.Writer, name string, d time.Duration) error {
	start, stop := pprof.StartCPUProfile, pprof.StopCPUProfile
	if name == "trace" {
		start, stop = trace.Start, trace.Stop
	}
	if err := start(w); err != nil { // another one is made
		return err
	}
	time.Sleep(d)
	stop()
	return nil
}

func listProfiles(w io.Writer) error {
	names := []string{"profile?seconds=5", "trace?seconds=5"}
	for _, p := range pprof.Profiles() {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	for _, name := range names {
		if _, err := fmt.Fprintln(w, profilesPath+name); err != nil {
			return err
		}
	}
	return nil
}

// startDebug answers at the path of DebugListen, if there is one. Without it the worker
// serves all the same.
func (o *Options) startDebug(log *slog.Logger) {
	if o.DebugListen == "" {
		return
	}
	d, err := listenDebug(o.DebugListen, log)
	if err != nil {
		log.Error("nobody can ask for profiles", "err", err)
		return
	}
	go d.serve()
}
