// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"vprocfs/internal/procpid"
	"vprocfs/procvirt/held"
)

// Policy says whose group stands for the container.
type Policy int

const (
	// Auto takes the init's group, less a trailing /init.scope, if the caller is in it
	// or below it, and else the caller's own (Kubernetes' shareProcessNamespace).
	Auto Policy = iota
	// Init takes the init's group always, as LXCFS does.
	Init
	// Caller takes the caller's own group always.
	Caller
)

var policyNames = [...]string{"auto", "init", "caller"}

func (p Policy) String() string { return policyNames[p] }

// Set makes Policy a pflag.Value.
func (p *Policy) Set(s string) error {
	for i, name := range policyNames {
		if s == name {
			*p = Policy(i)
			return nil
		}
	}
	return fmt.Errorf("must be auto, init or caller")
}

// Type makes Policy a pflag.Value.
func (*Policy) Type() string { return "auto|init|caller" }

// appendPID appends PROC/PID/FILE, with the NUL byte that held.ReadAt wants.
func appendPID(dst []byte, proc string, pid int, file string) []byte {
	dst = append(append(dst, proc...), '/')
	dst = append(strconv.AppendInt(dst, int64(pid), 10), '/')
	return append(append(dst, file...), 0)
}

// ReadMembership reads PROC/PID/cgroup into buf, without an allocation if buf is large
// enough. ENOENT and ESRCH say that the process is gone.
func ReadMembership(proc string, pid int, buf []byte) ([]byte, error) {
	var path [128]byte
	return held.ReadAt(appendPID(path[:0], proc, pid, "cgroup"), buf)
}

// OpenInitMembership opens the /proc/PID/cgroup of the init of a pid namespace, or of
// another thread of it if the first has exited: the v1 lines of an exiting thread say "/"
// whatever its group is (proc_cgroup_show, kernel/cgroup/cgroup.c).
func OpenInitMembership(o *held.Opener, proc string, pid int) (*held.File, error) {
	dir := proc + "/" + strconv.Itoa(pid)
	if exiting(proc, pid) {
		tasks, err := os.ReadDir(dir + "/task")
		if err != nil {
			return nil, err
		}
		for _, t := range tasks {
			if tid, err := strconv.Atoi(t.Name()); err == nil && !exiting(proc, tid) {
				dir += "/task/" + t.Name()
				break
			}
		}
	}
	return o.Open(dir + "/cgroup")
}

// exiting reports whether the thread is a zombie or gone.
func exiting(proc string, tid int) bool {
	var path [128]byte
	var buf [1024]byte
	stat, _ := held.ReadAt(appendPID(path[:0], proc, tid, "stat"), buf[:0])
	switch procpid.State(stat) {
	case 0, 'Z', 'X':
		return true
	}
	return false
}

// Locate finds where controller c keeps the numbers of a container, from the
// text of /proc/PID/cgroup of the caller and of the init of its pid namespace.
// A nil init text leaves the caller's group, whatever the policy.
//
// Errors: ErrNoController, ErrOutside, ErrRemoved.
func (m *Mounts) Locate(c Controller, policy Policy, caller, init []byte) (Place, error) {
	h, own, err := m.find(c, caller)
	if err != nil {
		return Place{}, fmt.Errorf("%s: %w", c, err)
	}
	path := own
	if policy != Caller && init != nil {
		_, theirs, err := m.find(c, init)
		if err != nil {
			return Place{}, fmt.Errorf("%s of the init: %w", c, err)
		}
		theirs = trimInitScope(theirs)
		if policy == Init || within(own, theirs) {
			path = theirs
		}
	}
	p, err := h.place(string(path))
	if err != nil {
		return Place{}, fmt.Errorf("%s: %w", c, err)
	}
	return p, nil
}

// find returns the hierarchy that serves c, and the path that the membership
// text names in it. A controller is in v2 if no v1 hierarchy has it.
func (m *Mounts) find(c Controller, text []byte) (*hierarchy, []byte, error) {
	if h := m.v1[c]; h != nil {
		if path := procpid.Cgroup(text, c.String()); path != nil {
			return h, path, nil
		}
	}
	if m.v2 == nil || !m.inV2[c] {
		return nil, nil, ErrNoController
	}
	path := procpid.Cgroup(text, "")
	if path == nil {
		return nil, nil, ErrNoController
	}
	if live, cut := bytes.CutSuffix(path, []byte(" (deleted)")); cut {
		// A group may be named so: it is removed if there is no such directory.
		if p, err := m.v2.place(string(path)); err != nil || len(p.Dirs) == 0 || !isDir(p.Dirs[0]) {
			return nil, live, ErrRemoved
		}
	}
	return m.v2, path, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// trimInitScope takes a trailing /init.scope off: systemd in a container puts
// itself there, and the container is the group above.
func trimInitScope(path []byte) []byte {
	if string(path) == "/init.scope" {
		return path[:1]
	}
	return bytes.TrimSuffix(path, []byte("/init.scope"))
}

// within reports whether group path is group of or lies below it.
func within(path, of []byte) bool {
	if len(of) == 1 { // "/"
		return true
	}
	return bytes.HasPrefix(path, of) && (len(path) == len(of) || path[len(of)] == '/')
}
