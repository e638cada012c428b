// SPDX-License-Identifier: Apache-2.0

// Package report asks a daemon by its control socket, and makes text of what it answers.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"vprocfs/internal/control"
	"vprocfs/internal/daemon"
)

// DefaultMount is the mount point of the package's unit.
const DefaultMount = "/var/lib/vprocfs"

// patience is how long a daemon may take to answer. It needs some milliseconds.
const patience = 5 * time.Second

// Daemon is a daemon that runs.
type Daemon struct{ socket string }

// Find returns the daemon at the mount point dir. If dir is empty, that is the one at
// DefaultMount, or else the only one that runs.
func Find(dir string) (*Daemon, error) {
	if dir != "" {
		path, err := daemon.Resolve(dir)
		if err != nil {
			return nil, err
		}
		return &Daemon{control.Path(path)}, nil
	}
	d := &Daemon{control.Path(DefaultMount)}
	err := d.ping()
	if err == nil || !errors.Is(err, control.ErrNoDaemon) {
		return d, nil
	}
	sockets, err := filepath.Glob(filepath.Join(control.Dir, "*.sock"))
	if err != nil {
		return nil, err
	}
	var found []*Daemon
	for _, s := range sockets {
		if d := (&Daemon{s}); !errors.Is(d.ping(), control.ErrNoDaemon) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w in %s", control.ErrNoDaemon, control.Dir)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d daemons run: choose one with --mount", len(found))
}

func (d *Daemon) ping() error {
	return control.Ask(d.socket, control.Request{Verb: control.Ping}, patience, nil)
}

// A worker that dies while it is asked is replaced within some milliseconds, so that it is
// asked again: every askAgain, for askFor.
const (
	askAgain = 20 * time.Millisecond
	askFor   = 2 * time.Second
)

// ask asks for data of type T.
func ask[T any](d *Daemon, verb, arg string) (data T, err error) {
	for end := time.Now().Add(askFor); ; time.Sleep(askAgain) {
		err = control.Ask(d.socket, control.Request{Verb: verb, Arg: arg}, patience, &data)
		again := errors.Is(err, control.ErrNoWorker) || errors.Is(err, control.ErrEnded)
		if !again || time.Now().After(end) {
			return data, err
		}
	}
}

// SetLogLevel makes the daemon log from the level on: debug, info, warn or error.
func (d *Daemon) SetLogLevel(level string) error {
	return control.Ask(d.socket, control.Request{Verb: control.LogLevel, Arg: level}, patience, nil)
}

// Stats returns what the worker has done.
func (d *Daemon) Stats() (daemon.Stats, error) { return ask[daemon.Stats](d, control.Stats, "") }

// Holder returns what the holder knows.
func (d *Daemon) Holder() (daemon.Status, error) { return ask[daemon.Status](d, control.Status, "") }

// Explain returns where the numbers of process pid come from.
func (d *Daemon) Explain(pid int) (*daemon.Explanation, error) {
	return ask[*daemon.Explanation](d, control.Explain, strconv.Itoa(pid))
}

// JSON prints v. What is no visible character is escaped: it may go to a terminal.
func JSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(escapeHidden(text), '\n'))
	return err
}

// escapeHidden escapes what encoding/json leaves: control characters beyond ASCII, and marks
// that turn the direction of writing. They are in strings only.
func escapeHidden(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		if r < 0x7f || unicode.IsPrint(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}

// Printable makes a name that a container chose safe to print on a terminal: what is no
// visible character, such as an escape or a mark that turns the direction of writing, is
// shown as a question mark.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
