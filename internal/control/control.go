// SPDX-License-Identifier: Apache-2.0

// Package control is the daemon's control socket. A client sends one line of JSON,
// {"version":1,"verb":"ping"}, and gets one line back:
// {"version":1,"ok":true,"data":...}, or "ok":false and an "error". To connect asks for
// nothing.
//
// It knows the lines and who may send them, and not what the verbs do.
package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
)

// Dir is where daemons listen.
const Dir = "/run/vprocfs"

// Version is that of requests and responses.
const Version = 1

// Verbs. Only root may ask for those that change something.
const (
	Ping       = "ping"       // only the response is wanted
	Upgrade    = "upgrade"    // put the program on disk to work; changes something
	LogLevel   = "log-level"  // log from the level in Arg on; changes something
	Status     = "status"     // what the holder knows
	Stats      = "stats"      // what the worker has done
	Containers = "containers" // the containers, and what they are shown; see CountersOnly
	Files      = "files"      // what the containers in the pid namespace Arg have read, by file
	Explain    = "explain"    // where the numbers of process Arg come from
)

// CountersOnly as Arg of Containers asks for what needs no file to be read.
const CountersOnly = "counters"

// readOnly has the verbs that change nothing.
var readOnly = map[string]bool{Ping: true, Status: true, Stats: true, Containers: true, Files: true, Explain: true}

// verbs has all verbs.
var verbs = map[string]bool{
	Ping: true, Upgrade: true, LogLevel: true, Status: true, Stats: true, Containers: true, Files: true,
	Explain: true,
}

// Request is what a client asks for.
type Request struct {
	Version int    `json:"version"`
	Verb    string `json:"verb"`
	Arg     string `json:"arg,omitempty"`
}

// response is the answer.
type response struct {
	Version int             `json:"version"`
	OK      bool            `json:"ok"`
	Error   string          `json:"error,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// Parse parses a line.
func Parse(line []byte) (r Request, err error) {
	if err := json.Unmarshal(line, &r); err != nil {
		return Request{}, fmt.Errorf("request: %w", err)
	}
	switch {
	case r.Version != Version:
		return Request{}, fmt.Errorf("request: version %d, want %d", r.Version, Version)
	case !verbs[r.Verb]:
		return Request{}, fmt.Errorf("request: no verb %q", r.Verb)
	}
	return r, nil
}

// Line returns the request as a line without the newline.
func (r Request) Line() []byte {
	b, _ := json.Marshal(r) // a number and strings
	return b
}

// maxPath is the longest path of a socket: sun_path has 108 bytes with the zero at its end
// (unix(7)).
const maxPath = 107

// Path returns the socket of the daemon whose mount point is dir, an absolute path without
// symbolic links: var-lib-vprocfs.sock for /var/lib/vprocfs. As with systemd-escape(1), a
// byte that could be mistaken is written as \x2d. The middle of a long name is a hash.
func Path(dir string) string { return socketPath(dir, ".sock") }

// SeccompPath returns the socket where container runtimes hand the listeners of seccomp
// filters to the daemon: var-lib-vprocfs.seccomp.sock for /var/lib/vprocfs.
func SeccompPath(dir string) string { return socketPath(dir, ".seccomp.sock") }

func socketPath(dir, suffix string) string {
	var name strings.Builder
	for _, c := range bytes.Trim([]byte(filepath.Clean(dir)), "/") {
		switch {
		case c == '/':
			name.WriteByte('-')
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == '.' && name.Len() > 0:
			name.WriteByte(c)
		default:
			fmt.Fprintf(&name, `\x%02x`, c)
		}
	}
	return filepath.Join(Dir, shorten(name.String(), maxPath-len(Dir)-len("/")-len(suffix))+suffix)
}

// shorten replaces the middle of a name that is too long by a hash of it.
func shorten(name string, max int) string {
	if len(name) <= max {
		return name
	}
	hash := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(name) {
		hash = (hash ^ uint64(c)) * 1099511628211
	}
	middle := fmt.Sprintf("~%016x~", hash)
	half := (max - len(middle)) / 2
	return name[:half] + middle + name[len(name)-half:]
}
