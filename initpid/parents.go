package initpid

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/internal/procpid"
)

// errNoAncestor says that no ancestor of the caller is the init.
var errNoAncestor = errors.New("no parent of the caller is the init of its pid namespace")

const (
	// maxParents bounds the walk. A container decides how deep its tree is.
	maxParents = 32
	// statusSize is how much is read of a status file, in bytes. What is wanted
	// comes before, unless the process has thousands of supplementary groups.
	statusSize = 8192
)

// findParents is the finder of Method Parents, with findFork where it is of no use.
func (r *Resolver) findParents(q question) (int, Method, error) {
	pid, err := r.proc.findParents(q.caller, q.ns)
	if err == nil {
		return pid, Parents, nil
	}
	return r.findFork(q)
}

// findParents goes from the caller to its parent and so on, until one is pid 1 in its
// namespace: nearly every process of a container descends from its init, or was given
// to it when its own parent died. One that has come from outside (docker exec,
// nsenter) does not: errNoAncestor.
//
// It reads the status file of each, where a helper takes milliseconds, and waits for
// nobody; but where the process exits just then, its memory may be given back in our
// name (mmput, fs/proc/array.c). The name in there, which the process chose, has its
// line breaks escaped (proc_task_name, fs/proc/array.c).
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

// isInit makes sure that pid is the init of ns. The pidfd makes what is read before
// it is asked be about one process.
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

// status is what the walk wants of /proc/PID/status.
type status struct {
	tgid, parent int // in our own pid namespace
	// level is the number of pid namespaces from our own to the process's, and
	// inner its thread group's id in that one.
	level, inner int
}

// status reads it. Its errors are for nobody: where it fails a helper is asked.
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
