// SPDX-License-Identifier: Apache-2.0

// Package host reads the host's own files below /proc and /sys, which the view
// of a container starts from and falls back to. It knows nothing of containers.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// TicksPerSecond is USER_HZ, the unit of the times in /proc/stat and
// /proc/PID/stat (proc_pid_stat(5)): 100 on every architecture Go runs on.
const TicksPerSecond = 100

// NanosPerTick is the length of a tick in nanoseconds.
const NanosPerTick = 1_000_000_000 / TicksPerSecond

// Source is one of the host's files.
type Source struct {
	// Path is the file's path below the root.
	Path string
	// Records says that the kernel returns the file piece by piece.
	Records bool
	// Optional says that some kernels are built without it.
	Optional bool
}

// File is one of the host's files, kept open. Read is safe for concurrent use. The
// methods of nil are those of a file that the host does not have.
type File struct {
	held    *held.File
	records bool
}

// Open opens a file below root, "/" but in tests. It returns nil without an error
// if the file is optional and the host does not have it.
func Open(o *held.Opener, root string, s Source) (*File, error) {
	f, err := o.Open(filepath.Join(root, s.Path))
	switch {
	case s.Optional && errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &File{f, s.Records}, nil
}

// Read returns the text as it is now, in buf's memory if that is large enough. It
// returns ENOENT if the host does not have the file.
//
// Each request reads afresh: with a thousand containers that read five files every
// second, sharing the texts for some milliseconds would save at most 6.6 % of the
// daemon's CPU time (6.18), and show numbers from before the question.
func (f *File) Read(buf []byte) ([]byte, error) {
	switch {
	case f == nil:
		return buf, unix.ENOENT
	case f.records:
		return f.held.ReadRecords(buf)
	}
	return f.held.Read(buf)
}

// Close closes the file. No Read may run at the same time.
func (f *File) Close() {
	if f != nil {
		f.held.Close()
	}
}

// ParseLastPID returns the last id that was given to a thread in the daemon's pid
// namespace: field 5 of PROC/loadavg, whose text is given.
func ParseLastPID(text []byte) (int, error) {
	line, _ := scan.Line(text)
	id, n := scan.Uint(line[bytes.LastIndexByte(line, ' ')+1:])
	if n == 0 || id >= 1<<31 {
		return 0, fmt.Errorf("loadavg: no last pid in %q", line[:min(len(line), 80)])
	}
	return int(id), nil
}
