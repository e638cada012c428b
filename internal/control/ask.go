// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds an answer, in bytes: a container takes some 500.
const maxAnswer = 64 << 20

// Errors of Ask.
var (
	// ErrNoDaemon says that nobody listens.
	ErrNoDaemon = errors.New("no daemon listens")
	// ErrNoWorker says that no worker is at work that could answer.
	ErrNoWorker = errors.New("no worker is at work")
	// ErrEnded says that the process that was to answer has ended.
	ErrEnded = errors.New("the daemon has ended")
)

// Ask sends one request to the daemon that listens at path, and decodes the data of the
// answer into data, unless that is nil. It returns ErrNoDaemon if nobody listens.
func Ask(path string, r Request, patience time.Duration, data any) error {
	r.Version = Version
	c, err := net.DialTimeout("unix", path, patience)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w at %s", ErrNoDaemon, path)
	case err != nil:
		return err
	}
	defer func() { _ = c.Close() }() // the response has been read
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	// A daemon that refuses the client may not have read this, but has answered.
	_, writeErr := c.Write(append(r.Line(), '\n'))
	line, err := bufio.NewReader(io.LimitReader(c, maxAnswer)).ReadBytes('\n')
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: no answer to %q in %s: the daemon is stopped or hangs", path, r.Verb, patience)
	case errors.Is(err, io.EOF) && len(line) >= maxAnswer:
		return fmt.Errorf("%s: the answer to %q is longer than %d bytes", path, r.Verb, maxAnswer)
	case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("%s: no answer to %q: %w", path, r.Verb, ErrEnded)
	case err != nil:
		return fmt.Errorf("%s: %w", path, errors.Join(writeErr, err))
	}
	return decode(path, line, data)
}

func decode(path string, line []byte, data any) error {
	var r response
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("%s: answer %.100q: %w", path, line, err)
	}
	switch {
	case r.Error == ErrNoWorker.Error():
		return ErrNoWorker
	case !r.OK:
		return errors.New(r.Error)
	}
	if data == nil {
		return nil
	}
	if err := json.Unmarshal(r.Data, data); err != nil {
		return fmt.Errorf("%s: data of the answer: %w", path, err)
	}
	return nil
}
