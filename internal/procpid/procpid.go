// SPDX-License-Identifier: Apache-2.0

// Package procpid parses /proc/PID/stat, /proc/PID/status and /proc/PID/cgroup
// (proc_pid_stat(5), proc_pid_status(5), cgroups(7)). It works on text and does no
// I/O. No function allocates, and what they return is part of the text they are given.
//
// A process chooses its own name, which is in stat and in status. In stat it may
// hold any byte, so the fields are counted from the last parenthesis. In status the
// kernel escapes its line breaks (proc_task_name, fs/proc/array.c).
package procpid

import (
	"bytes"
	"iter"
	"strconv"
)

// State returns the state of a process or thread from the text of its stat: R, S, D,
// T, t, Z, X or I. It returns 0 if there is none.
func State(stat []byte) byte {
	if f := statField(stat, 3); len(f) == 1 {
		return f[0]
	}
	return 0
}

// StartTime returns when a process started, in clock ticks (USER_HZ, 100 a second)
// after the boot on CLOCK_BOOTTIME, from the text of its stat.
func StartTime(stat []byte) (ticks uint64, ok bool) {
	ticks, err := strconv.ParseUint(string(statField(stat, 22)), 10, 64)
	return ticks, err == nil
}

// statField returns field n of a stat, as proc_pid_stat(5) numbers them, from 3 on.
// It is empty if there is no such field, or if the text ends in it.
func statField(stat []byte, n int) []byte {
	name := bytes.LastIndexByte(stat, ')')
	if name < 0 {
		return nil
	}
	rest := stat[name+1:]
	for i := 2; len(rest) > 0 && rest[0] == ' '; {
		rest = rest[1:]
		end := bytes.IndexAny(rest, " \n")
		if end < 0 {
			break
		}
		if i++; i == n {
			return rest[:end]
		}
		rest = rest[end:]
	}
	return nil
}

// Status returns the value of a line of a status, without blanks around it. ok is
// false if there is no such line, or if the text ends in it.
func Status(status []byte, key string) (value []byte, ok bool) {
	for len(status) > 0 {
		end := bytes.IndexByte(status, '\n')
		if end < 0 {
			break
		}
		line := status[:end]
		status = status[end+1:]
		if len(line) > len(key) && line[len(key)] == ':' && string(line[:len(key)]) == key {
			return bytes.TrimSpace(line[len(key)+1:]), true
		}
	}
	return nil, false
}

// StatusID returns the value of a line of a status that is a process id, such as
// Tgid and PPid.
func StatusID(status []byte, key string) (id int, ok bool) {
	value, ok := Status(status, key)
	if !ok {
		return 0, false
	}
	return parseID(value)
}

// StatusIDs are the ids of the NSpid or NStgid line of a status (Linux 4.1): one
// for each pid namespace, from that of the procfs to the innermost. There are none
// if one is not a number.
func StatusIDs(status []byte, key string) iter.Seq[int] {
	return func(yield func(int) bool) {
		value, _ := Status(status, key)
		for field := range bytes.FieldsSeq(value) {
			if _, ok := parseID(field); !ok {
				return
			}
		}
		for field := range bytes.FieldsSeq(value) {
			if id, _ := parseID(field); !yield(id) {
				return
			}
		}
	}
}

// parseID parses a process id. The largest is 2^22 (PID_MAX_LIMIT).
func parseID(b []byte) (int, bool) {
	id, err := strconv.ParseUint(string(b), 10, 31)
	return int(id), err == nil
}

// Capabilities returns the effective capabilities of a thread, one bit for each,
// from the text of its status.
func Capabilities(status []byte) (caps uint64, ok bool) {
	value, ok := Status(status, "CapEff")
	if !ok {
		return 0, false
	}
	caps, err := strconv.ParseUint(string(value), 16, 64)
	return caps, err == nil
}

// Cgroups are the lines of a /proc/PID/cgroup: the comma-separated controllers of a
// hierarchy, empty for the v2 tree, and the path of the process's cgroup in it. A
// path starts with a slash and may hold any byte but a newline.
func Cgroups(text []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(controllers, path []byte) bool) {
		for line := range bytes.Lines(text) {
			line, ended := bytes.CutSuffix(line, []byte("\n"))
			id, rest, _ := bytes.Cut(line, []byte(":"))
			controllers, path, _ := bytes.Cut(rest, []byte(":"))
			if !ended || len(path) == 0 || path[0] != '/' || (len(controllers) == 0) != (string(id) == "0") {
				continue
			}
			if !yield(controllers, path) {
				return
			}
		}
	}
}

// Cgroup returns the path of a process's cgroup in the hierarchy of a controller, or
// in the v2 tree if controller is empty, from the text of its /proc/PID/cgroup. It
// is nil if there is no such line.
func Cgroup(text []byte, controller string) []byte {
	for controllers, path := range Cgroups(text) {
		if controller == "" && len(controllers) == 0 {
			return path
		}
		for len(controllers) > 0 {
			var name []byte
			name, controllers, _ = bytes.Cut(controllers, []byte(","))
			if string(name) == controller {
				return path
			}
		}
	}
	return nil
}
