// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what clients may do.
const (
	maxClients     = 16
	maxRequest     = 2048 // bytes, with the newline
	requestTimeout = 5 * time.Second
	// answerTimeout is how long a client may take to read its answer.
	answerTimeout = 5 * time.Second
)

// minAcceptWait and maxAcceptWait bound the wait after an error of accept(2).
const (
	minAcceptWait = 10 * time.Millisecond
	maxAcceptWait = time.Second
)

// NoGroup lets only root ask.
const NoGroup = -1

// Listener takes requests from clients.
type Listener struct {
	// Requests has the clients whose requests are read. Each must be answered, or handed on.
	Requests chan *Client

	socket  *net.UnixListener
	group   int
	accept  func() (*net.UnixConn, error)
	timeout time.Duration // for the client to send its request
	slots   chan struct{} // one element for each client
}

// Client is a client that waits for the answer. One of its methods must be called, once. A
// nil Client is nobody.
type Client struct {
	Request
	conn *net.UnixConn
	done func() // nil: nothing
}

// Listen takes requests at path, from root and from the members of the group, who may not
// change anything. What another process has left at path is removed. Serve must follow.
func Listen(path string, group int) (*Listener, error) {
	if err := MakeDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	// Left by a daemon that died: each name is one mount point's, and that is ours.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	u, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	mode := os.FileMode(0o600)
	if group != NoGroup {
		// The daemon cannot change the group of a file (CAP_CHOWN): mayAsk decides.
		mode = 0o666
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return &Listener{
		Requests: make(chan *Client), socket: u, group: group, accept: u.AcceptUnix,
		timeout: requestTimeout, slots: make(chan struct{}, maxClients),
	}, nil
}

// MakeDir makes the directory of sockets, which everybody may enter.
func MakeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	st, err := os.Stat(dir)
	if err == nil && dir == Dir && st.Mode().Perm() != 0o755 {
		err = os.Chmod(dir, 0o755) // the umask, or a former version
	}
	return err
}

// Close removes the socket. Requests that were sent before are still taken. A nil Listener
// is none.
func (l *Listener) Close() {
	if l != nil {
		_ = l.socket.Close() // removes the path too
	}
}

// Serve accepts clients until Close. Any other error, of descriptors that are short for
// example, passes.
func (l *Listener) Serve() {
	wait := minAcceptWait
	for {
		conn, err := l.accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(wait)
			wait = min(2*wait, maxAcceptWait)
			continue
		}
		wait = minAcceptWait
		c := &Client{conn: conn}
		select {
		case l.slots <- struct{}{}:
			c.done = func() { <-l.slots }
			go l.take(c)
		default:
			c.Say(errors.New("too many clients"))
		}
	}
}

// take reads the request of a client.
func (l *Listener) take(c *Client) {
	err := l.read(c)
	if err == nil {
		err = l.mayAsk(c)
	}
	if err != nil {
		c.Say(err)
		return
	}
	l.Requests <- c
}

func (l *Listener) read(c *Client) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(l.timeout)); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(c.conn, maxRequest).ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return fmt.Errorf("request: longer than %d bytes", maxRequest)
	case errors.Is(err, io.EOF):
		return errors.New("request: no line")
	case err != nil:
		return fmt.Errorf("request: %w", err)
	}
	c.Request, err = Parse(line)
	return err
}

// mayAsk returns an error if c may not ask for what it asks for.
func (l *Listener) mayAsk(c *Client) error {
	cred, groups, err := peer(c.conn)
	switch {
	case err != nil:
		return err
	case cred.Uid == 0:
		return nil
	case l.group == NoGroup || int(cred.Gid) != l.group && !slices.Contains(groups, uint32(l.group)):
		return fmt.Errorf("user %d may not ask: %w", cred.Uid, os.ErrPermission)
	case !readOnly[c.Verb]:
		return fmt.Errorf("%s: only root may ask for that: %w", c.Verb, os.ErrPermission)
	}
	return nil
}

// peer returns whom the other end belongs to, and the supplementary groups (SO_PEERGROUPS,
// Linux 4.13).
func peer(c *net.UnixConn) (cred *unix.Ucred, groups []uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Uid != 0 {
			groups, err = peerGroups(int(fd))
		}
	})
	if err = errors.Join(err, ctlErr); err != nil {
		return nil, nil, fmt.Errorf("credentials of the client: %w", err)
	}
	return cred, groups, nil
}

// NewClient returns the client that another process has handed on, and closes f.
func NewClient(f *os.File, line string) (*Client, error) {
	defer f.Close()
	r, err := Parse([]byte(line))
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("client: not a Unix socket"), conn.Close())
	}
	return &Client{Request: r, conn: u}, nil
}

// Say answers without data; nil is success.
func (c *Client) Say(err error) { c.Answer(nil, err) }

// Answer answers with data in JSON, or with err. It waits for some seconds at most, and only
// if the data do not fit into the socket's buffer.
func (c *Client) Answer(data any, err error) {
	if c == nil {
		return
	}
	if c.done != nil {
		defer c.done()
	}
	r := response{Version: Version}
	if err == nil && data != nil {
		r.Data, err = json.Marshal(data)
	}
	if r.OK = err == nil; err != nil {
		r.Error, r.Data = strings.ReplaceAll(err.Error(), "\n", "; "), nil
	}
	b, _ := json.Marshal(r) // a number, a bool, a string, and what has been marshalled
	_ = c.conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	_, _ = c.conn.Write(append(b, '\n')) // gone: nobody to tell
	_ = c.conn.Close()
}

// HandOn calls send with a descriptor of the client's connection and its request as a line.
// If that succeeds, another process answers; otherwise the client gets the error.
func (c *Client) HandOn(send func(line string, fd int) error) {
	f, err := c.conn.File()
	if err == nil {
		err = send(string(c.Line()), int(f.Fd()))
		_ = f.Close() // the other process has its own
	}
	if err != nil {
		c.Say(err)
		return
	}
	_ = c.conn.Close()
	if c.done != nil {
		c.done()
	}
}

// File returns a file of the connection, for a program that this process executes.
func (c *Client) File() (*os.File, error) { return c.conn.File() }
