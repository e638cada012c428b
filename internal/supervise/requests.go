package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// SocketDir is where holders listen, for root only. A client sends one line of JSON,
// {"version":1,"verb":"upgrade"}, and gets one line back when that is done:
// {"version":1,"ok":true}, or "ok":false and an "error". To connect asks for nothing.
const SocketDir = "/run/vprocfs"

// requestVersion is that of requests and responses.
const requestVersion = 1

// The verbs of requests.
const (
	verbPing    = "ping"    // only the response is wanted
	verbUpgrade = "upgrade" // put the program on disk to work
)

// Bounds of what clients may do.
const (
	maxClients     = 16
	maxRequest     = 4096 // bytes, with the newline
	requestTimeout = 5 * time.Second
)

// maxAcceptWait bounds the wait after an error of accept(2).
const maxAcceptWait = time.Second

type request struct {
	Version int    `json:"version"`
	Verb    string `json:"verb"`
}

type response struct {
	Version int    `json:"version"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
}

// parseRequest returns the verb of a request.
func parseRequest(line []byte) (verb string, err error) {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	switch {
	case r.Version != requestVersion:
		return "", fmt.Errorf("request: version %d, want %d", r.Version, requestVersion)
	case r.Verb != verbPing && r.Verb != verbUpgrade:
		return "", fmt.Errorf("request: no verb %q", r.Verb)
	}
	return r.Verb, nil
}

// listener takes requests from clients, and hands them to the holder.
type listener struct {
	*net.UnixListener
	accept   func() (*net.UnixConn, error)
	timeout  time.Duration // for the client to send its request
	requests chan *replyTo
	slots    chan struct{} // one element for each client
}

// replyTo is a client that waits for the response.
type replyTo struct {
	conn *net.UnixConn
	verb string
	done func() // nil: nothing
}

// Listen makes the holder take requests at SocketDir/NAME, from root.
func (h *Holder) Listen(name string) error {
	if err := os.MkdirAll(SocketDir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(SocketDir, name)
	// Left by a holder that died: each name is one mount's, and the mount ours.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := listen(path, h.requests)
	if err != nil {
		return err
	}
	h.listener = l
	go l.serve()
	return nil
}

func listen(path string, requests chan *replyTo) (*listener, error) {
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &listener{
		UnixListener: u, accept: u.AcceptUnix, timeout: requestTimeout,
		requests: requests, slots: make(chan struct{}, maxClients),
	}, nil
}

// Unlisten removes the socket. Requests that were sent before are still taken.
func (h *Holder) Unlisten() {
	if h.listener != nil {
		_ = h.listener.Close() // removes the path too
	}
}

// refuse answers those whose requests have just come.
func (h *Holder) refuse(err error) {
	for {
		select {
		case c := <-h.requests:
			c.say(err)
		default:
			return
		}
	}
}

// asked handles a request.
func (h *Holder) asked(c *replyTo) {
	if c.verb == verbPing {
		c.say(nil)
		return
	}
	h.step(upgradeAsked{h.addClient(c)})
}

// serve accepts clients until the listener is closed. Any other error, of descriptors
// that are short for example, passes.
func (l *listener) serve() {
	var wait backoff
	for {
		c, err := l.accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(wait.next(minBackoff, maxAcceptWait))
			continue
		}
		wait = backoff{}
		r := &replyTo{conn: c}
		select {
		case l.slots <- struct{}{}:
			r.done = func() { <-l.slots }
			go l.take(r)
		default:
			r.say(errors.New("too many clients"))
		}
	}
}

// take reads the request of a client.
func (l *listener) take(r *replyTo) {
	verb, err := l.read(r.conn)
	if err != nil {
		r.say(err)
		return
	}
	r.verb = verb
	l.requests <- r
}

func (l *listener) read(c *net.UnixConn) (verb string, err error) {
	if err := c.SetReadDeadline(time.Now().Add(l.timeout)); err != nil {
		return "", err
	}
	line, err := bufio.NewReaderSize(c, maxRequest).ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("request: longer than %d bytes", maxRequest)
	case errors.Is(err, io.EOF):
		return "", errors.New("request: no line")
	case err != nil:
		return "", fmt.Errorf("request: %w", err)
	}
	return parseRequest(line)
}

// say sends the response; nil is success. It is called once. A nil replyTo is nobody.
func (r *replyTo) say(err error) {
	if r == nil {
		return
	}
	if r.done != nil {
		defer r.done()
	}
	s := response{Version: requestVersion, OK: err == nil}
	if err != nil {
		s.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	b, _ := json.Marshal(s) // a number, a bool, a string
	// The buffer of a socket that nothing was sent to has room.
	_ = r.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = r.conn.Write(append(b, '\n')) // gone: nobody to tell
	_ = r.conn.Close()
}
