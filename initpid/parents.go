// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/internal/procpid"
)

// errNoAncestor is returned if no ancestor of the caller is the init.
var errNoAncestor = errors.New("no parent of the caller is the init of its pid namespace")

const (
	// maxParents bounds the walk: a container decides how deep its tree is.
	maxParents = 32
	// statusSize is how much is read of a status file, in bytes. The wanted lines
	// are in it, unless the process has thousands of supplementary groups.
	statusSize = 8192
)

// findParents is the finder of Method Parents. If it fails, it is findFork.
func (r *Resolver) findParents(caller, nsfd int, ns uint64) (int, Method, error) {
	pid, err := r.proc.findParents(caller, ns)
	if err == nil {
		return pid, Parents, nil
	}
	return r.findFork(caller, nsfd, ns)
}

// findParents goes from the caller to its parent and so on, until one is pid 1 in its
// namespace. Nearly every process of a container descends from its init, or was given
// to it when its own parent died. A process that has entered from outside (docker
// exec, nsenter) does not: errNoAncestor.
//
// It reads the status file of each, which is much faster than a helper, and does not
// block. If the process exits at the same time, freeing its memory may be our work
// (mmput, fs/proc/array.c).
func (p *procfs) findParents(caller int, ns uint64) (int, error) {
	buf := make([]byte, statusSize)
	level := 0
	for pid, n := caller, 0; n < maxParents; n++ {
		st, err := p.status(pid, buf)
		if err != nil {
			return 0, err
		}
		if level == 0 {
			level = st.level
		}
		switch {
		case st.level != level:
			return 0, errNoAncestor // it is outside
		case st.inner == 1:
			return st.tgid, p.isInit(st.tgid, ns, buf)
		case st.parent == 0:
			return 0, errNoAncestor
		}
		pid = st.parent
	}
	return 0, errNoAncestor
}

// isInit returns an error if pid is not the init of ns. With the pidfd, all that is
// read is about one process.
func (p *procfs) isInit(pid int, ns uint64, buf []byte) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errNoAncestor
	}
	defer unix.Close(pidfd)
	st, err := p.status(pid, buf)
	if err != nil || st.inner != 1 || p.reverify(pidfd, pid, ns) != nil {
		return errNoAncestor
	}
	return nil
}

// status is what the walk needs of /proc/PID/status.
type status struct {
	tgid, parent int // in our own pid namespace
	// level is the number of pid namespaces from our own to that of the process,
	// and inner its thread group id there.
	level, inner int
}

// status reads the status of a process. If it fails, a helper is asked, so its errors
// are not shown.
func (p *procfs) status(pid int, buf []byte) (status, error) {
	fd, err := unix.Openat(p.fd, strconv.Itoa(pid)+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return status{}, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return status{}, err
	}
	st, ok := parseStatus(buf[:n])
	if !ok {
		return status{}, errNoAncestor
	}
	return st, nil
}

// parseStatus returns false if the lines Tgid, PPid and NStgid (Linux 4.1) are not
// all there.
func parseStatus(text []byte) (st status, ok bool) {
	tgid, ok1 := procpid.StatusID(text, "Tgid")
	parent, ok2 := procpid.StatusID(text, "PPid")
	st = status{tgid: tgid, parent: parent}
	for id := range procpid.StatusIDs(text, "NStgid") {
		st.level++
		st.inner = id
	}
	return st, ok1 && ok2 && st.tgid > 0 && st.inner > 0
}
