// Package supervise keeps a server alive across its own death: a small process, the
// holder, owns descriptors, and a worker, a second process of the same program,
// works with them. A worker that ends is replaced at once by one that has the same
// descriptors, and a new program is put to work without a gap.
//
// It knows processes, descriptors, signals and systemd, and not what the descriptors
// are for. Holder and worker exchange short messages over a pair of sockets.
//
// What a holder does is decided by a machine, which is pure: it takes events and
// returns actions (machine.go, events.go). A Holder does the actions, and turns what
// happens into events.
package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The environment variables with the state of a new worker and of a new holder. They are
// removed when they are read.
const (
	workerEnv = "VPROCFS_WORKER"
	holderEnv = "VPROCFS_HOLDER"
)

// formatVersion is the version of those states.
const formatVersion = 2

// The messages of the holder. A message is a word, and a text after a blank.
const (
	msgGo   = "go"   // begin to work: nobody else does. The text is crashed if the last worker crashed
	msgStop = "stop" // end
	msgPing = "ping" // answer with msgPong
	// msgToggle switches something that only the worker knows.
	msgToggle = "toggle"
)

// The messages of the worker.
const (
	msgReady   = "ready"   // it has started, and waits for msgGo
	msgServing = "serving" // it works
	msgPong    = "pong"
	// msgKeep comes with a descriptor, which the holder keeps under the name in the text,
	// and hands on to a candidate.
	msgKeep    = "keep"
	msgOver    = "over"    // there is nothing left to do; the text is an error, or empty
	msgAborted = "aborted" // the connection was aborted; the text is an error, or empty
)

// crashed is the text of msgGo.
const crashed = "crashed"

// maxMessage bounds a message, in bytes.
const maxMessage = 4096

// control is one end of the pair of sockets.
type control struct{ conn *net.UnixConn }

// newControl takes f over.
func newControl(f *os.File) (*control, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("control socket: not a Unix socket"), c.Close())
	}
	return &control{u}, nil
}

// controlPair returns this process's end, and the other's as a file.
func controlPair(sys *system) (*control, *os.File, error) {
	fds, err := sys.socketpair()
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	c, err := newControl(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c, theirs, nil
}

// send sends a message. It never waits. An error says that the other side is gone, or
// that it reads nothing: pings find that out.
func (c *control) send(word, rest string) error {
	return c.write([]byte(strings.TrimSuffix(word+" "+rest, " ")), nil)
}

// sendFile sends a message with a descriptor.
func (c *control) sendFile(word, rest string, fd int) error {
	return c.write([]byte(word+" "+rest), unix.UnixRights(fd))
}

func (c *control) write(b, oob []byte) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return errors.Join(err, sendErr)
}

// message is a message that was received.
type message struct {
	word, rest string
	file       *os.File // nil without one
}

// receive waits for a message. An error says that the other side is gone.
func (c *control) receive() (message, error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(b, oob)
	if err == nil && n == 0 {
		err = net.ErrClosed
	}
	if err != nil {
		return message{}, err
	}
	var m message
	m.word, m.rest, _ = strings.Cut(string(b[:n]), " ")
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) == 0 {
		return m, nil
	}
	if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil && len(fds) > 0 {
		unix.CloseOnExec(fds[0])
		m.file = os.NewFile(uintptr(fds[0]), m.rest)
	}
	return m, nil
}

// takeEnv removes an environment variable and decodes its JSON into v. It returns false
// if the variable is not set.
func takeEnv(name string, v any) (bool, error) {
	s, ok := os.LookupEnv(name)
	if !ok {
		return false, nil
	}
	if err := os.Unsetenv(name); err != nil {
		return false, err
	}
	if err := json.Unmarshal([]byte(s), v); err != nil {
		return false, fmt.Errorf("$%s: %w", name, err)
	}
	return true, nil
}
