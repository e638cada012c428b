// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Process says whose listener a runtime sends (ContainerProcessState of the OCI runtime
// specification).
type Process struct {
	// Container is the id that the runtime has for the container.
	Container string
	// Init is the pid of the container's init, and PID that of the process that has the
	// filter, both as the runtime sees them. They are the same unless the process was
	// added to a container that runs.
	Init, PID int
	// Metadata is what the container's configuration has for the supervisor.
	Metadata string
}

// Bounds of what a runtime may send.
const (
	maxState  = 1 << 20 // bytes; the annotations of a pod are in it
	maxRights = 8
	maxName   = 1024
	stateWait = 5 * time.Second
)

// listenerName is what the specification calls the listener among the descriptors.
const listenerName = "seccompFd"

// ReceiveOCI reads what an OCI runtime sends over a connection to the listenerPath of a
// container's configuration: one state, in JSON, and with it the listener. It gives up
// after a few seconds. The caller closes the connection.
func ReceiveOCI(c *net.UnixConn) (p Process, l *Listener, err error) {
	p, fd, err := ReceiveOCIFD(c)
	if err == nil {
		l, err = NewListener(fd)
	}
	return p, l, err
}

// ErrNothing says that the other end has closed a connection without a word.
var ErrNothing = errors.New("nothing was sent")

// ReceiveOCIFD is ReceiveOCI for those who keep the descriptor of the listener for others.
func ReceiveOCIFD(c *net.UnixConn) (p Process, fd int, err error) {
	if err := c.SetReadDeadline(time.Now().Add(stateWait)); err != nil {
		return p, -1, err
	}
	text, fds, err := readState(c)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if err == nil && len(text)+len(fds) == 0 {
		err = ErrNothing
	}
	if err != nil {
		return p, -1, err
	}
	p, i, err := parseState(text)
	if err != nil {
		return p, -1, err
	}
	if i >= len(fds) {
		return p, -1, fmt.Errorf("container process state: descriptor %d of %d", i+1, len(fds))
	}
	if err := check(fds[i]); err != nil {
		return p, -1, fmt.Errorf("seccomp listener: %w", err)
	}
	fd = fds[i]
	fds = append(fds[:i], fds[i+1:]...)
	return p, fd, nil
}

// SendOCI sends what an OCI runtime does to the socket at path: the listener of the process
// p.PID, which the other end may answer from then on.
func SendOCI(path string, p Process, listener int) error {
	c, err := dial(path)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all is sent, or err says why not
	var s containerState
	s.FDs, s.PID, s.Metadata, s.State.ID, s.State.PID = []string{listenerName}, p.PID, p.Metadata, p.Container, p.Init
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix(text, unix.UnixRights(listener), nil)
	return err
}

// Listens returns an error if nobody listens on the socket at path.
func Listens(path string) error {
	c, err := dial(path)
	if err != nil {
		return err
	}
	return c.Close()
}

func dial(path string) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

// containerState is what this package needs of ContainerProcessState.
type containerState struct {
	FDs      []string `json:"fds"`
	PID      int      `json:"pid"`
	Metadata string   `json:"metadata"`
	State    struct {
		ID  string `json:"id"`
		PID int    `json:"pid"`
	} `json:"state"`
}

// readState reads until the text is whole or the runtime has closed its end. The caller
// closes the descriptors, even after an error.
func readState(c *net.UnixConn) (text []byte, fds []int, err error) {
	b, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(maxRights*4))
	for {
		n, rightsLen, flags, _, err := c.ReadMsgUnix(b, rights) // close-on-exec
		more, rightsErr := parseRights(rights[:rightsLen])
		fds = append(fds, more...)
		text = append(text, b[:n]...)
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return nil, fds, fmt.Errorf("container process state: %w", err)
		case rightsErr != nil:
			return nil, fds, fmt.Errorf("container process state: %w", rightsErr)
		case flags&unix.MSG_CTRUNC != 0 || len(fds) > maxRights:
			return nil, fds, fmt.Errorf("container process state: more than %d descriptors", maxRights)
		case len(text) > maxState:
			return nil, fds, fmt.Errorf("container process state: longer than %d bytes", maxState)
		case n == 0, bytes.HasSuffix(bytes.TrimRight(text, " \r\n\t"), []byte("}")) && json.Valid(text):
			return text, fds, nil
		}
	}
}

func parseRights(b []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	for i := range messages {
		var more []int
		if more, err = unix.ParseUnixRights(&messages[i]); err != nil {
			break
		}
		fds = append(fds, more...)
	}
	return fds, err
}

// parseState returns the process of a state, and the index of the listener among the
// descriptors.
func parseState(text []byte) (p Process, listener int, err error) {
	var s containerState
	if err := json.Unmarshal(text, &s); err != nil {
		return p, 0, fmt.Errorf("container process state: %w", err)
	}
	p = Process{Container: s.State.ID, Init: s.State.PID, PID: s.PID, Metadata: s.Metadata}
	if len(p.Container) > maxName || len(p.Metadata) > maxName {
		return p, 0, fmt.Errorf("container process state: an id or metadata of more than %d bytes", maxName)
	}
	for i, name := range s.FDs {
		if name == listenerName {
			return p, i, nil
		}
	}
	return p, 0, fmt.Errorf("container process state: no %s among %d descriptors", listenerName, len(s.FDs))
}
