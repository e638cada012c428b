// SPDX-License-Identifier: Apache-2.0

// Package supervise keeps a server alive across its own death: a small process, the
// holder, owns descriptors, and a worker, a second process of the same program,
// works with them. A worker that ends is replaced at once by one that has the same
// descriptors, and a new program is put to work without a gap.
//
// It knows processes, descriptors, signals, systemd and the control socket, and not what
// the descriptors are for. Holder and worker exchange short messages over a pair of sockets.
//
// What a holder does is decided by a machine, which is pure: it takes events and
// returns actions (machine.go, events.go). A Holder does the actions, and turns what
// happens into events.
package supervise

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"vprocfs/internal/fdconn"
)

// The environment variables with the state of a new worker and of a new holder. They are
// removed when they are read.
const (
	workerEnv = "VPROCFS_WORKER"
	holderEnv = "VPROCFS_HOLDER"
)

// formatVersion is the version of those states.
const formatVersion = 3

// The messages of the holder. A message is a word, and a text after a blank.
const (
	// msgGo: begin to work, nobody else does. The text has the words crashed, if the last
	// worker crashed or hung, and toggled.
	msgGo   = "go"
	msgStop = "stop" // end
	msgPing = "ping" // answer with msgPong
	// msgToggle switches something that only the worker knows.
	msgToggle = "toggle"
	msgLevel  = "level" // log from the level in the text on
	// msgAsk comes with the connection of a client of the control socket. The text is its
	// request.
	msgAsk = "ask"
)

// The messages of the worker.
const (
	msgReady   = "ready"   // it has started, and waits for msgGo
	msgServing = "serving" // it works
	msgPong    = "pong"
	// msgKeep comes with a descriptor, which the holder keeps under the name in the text,
	// and hands on to a candidate.
	msgKeep = "keep"
	// msgDrop says that the descriptor of that name is of no use any more.
	msgDrop    = "drop"
	msgOver    = "over"    // there is nothing left to do; the text is an error, or empty
	msgAborted = "aborted" // the connection was aborted; the text is an error, or empty
)

// The words of the text of msgGo.
const (
	crashed = "crashed"
	toggled = "toggled" // msgToggle was sent to workers an odd number of times
	levelIs = "level="  // and the text of the last msgLevel
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

// command is this program again, with the same command line and a state in an
// environment variable. The descriptors of files are numbered from 3 on.
func command(path, env string, state any, files []*os.File, stderr *os.File) (*exec.Cmd, error) {
	text, err := encodeState(state)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{
		Path:       path,
		Args:       os.Args,
		Env:        append(os.Environ(), env+"="+text),
		Stdout:     os.Stdout,
		Stderr:     stderr,
		ExtraFiles: files,
		// A group of its own: what a terminal sends is for the holder.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}, nil
}

// encodeState returns a state as takeState decodes it: its format, a blank, and JSON.
func encodeState(state any) (string, error) {
	b, err := json.Marshal(state)
	return fmt.Sprintf("%d %s", formatVersion, b), err
}

// takeState removes an environment variable and decodes the state in it. It returns
// false if the variable is not set.
func takeState(env string, state any) (bool, error) {
	s, ok := os.LookupEnv(env)
	if !ok {
		return false, nil
	}
	if err := os.Unsetenv(env); err != nil {
		return false, err
	}
	version, text, _ := strings.Cut(s, " ")
	if version != strconv.Itoa(formatVersion) {
		return false, fmt.Errorf("$%s has format %.10q, want %d", env, version, formatVersion)
	}
	if err := json.Unmarshal([]byte(text), state); err != nil {
		return false, fmt.Errorf("$%s: %w", env, err)
	}
	return true, nil
}
