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
	"fmt"
	"os"
	"strings"

	"vprocfs/internal/fdconn"
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
	// msgGo: begin to work, nobody else does. The text has the words crashed, if the last
	// worker crashed or hung, and toggled.
	msgGo   = "go"
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

// The words of the text of msgGo.
const (
	crashed = "crashed"
	toggled = "toggled" // msgToggle was sent to workers an odd number of times
)

// A message is what holder and worker send each other.
type message struct {
	word, rest string
	file       *os.File // nil without one
}

// send sends a message. It never waits. An error says that the other side is gone, or
// that it reads nothing: pings find that out.
func send(c *fdconn.Conn, word, rest string) error { return sendFile(c, word, rest, -1) }

// sendFile sends a message with a descriptor, unless fd is negative.
func sendFile(c *fdconn.Conn, word, rest string, fd int) error {
	return c.Send(strings.TrimSuffix(word+" "+rest, " "), fd)
}

// receive waits for a message. An error says that the other side is gone.
func receive(c *fdconn.Conn) (m message, err error) {
	text, fd, err := c.Receive()
	m.word, m.rest, _ = strings.Cut(text, " ")
	if fd >= 0 {
		m.file = os.NewFile(uintptr(fd), m.rest)
	}
	return m, err
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
