package attach

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
)

// ErrNotPivoted is returned by Attach for a process that has not entered the root file
// system of its container. What is mounted on its /proc would not be seen there.
var ErrNotPivoted = errors.New("it has not entered the root file system of its container yet: in a createRuntime hook use `vprocfs hook`")

// useRootfs makes the directory at path, below the root directory of the process, the
// root directory of the container.
func (c *container) useRootfs(path string) error {
	fd, err := unix.Openat2(c.root, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT,
	})
	if err != nil {
		return fmt.Errorf("open the root file system %s: %w", path, err)
	}
	unix.Close(c.root)
	c.root, c.rootfs = fd, path
	return nil
}

// samePIDNamespace reports whether process pid is in the pid namespace of this process.
func samePIDNamespace(pid int) (bool, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat(hostProc+"/self/ns/pid", &ours); err != nil {
		return false, fmt.Errorf("stat the own pid namespace: %w", err)
	}
	if err := unix.Stat(hostProc+"/"+strconv.Itoa(pid)+"/ns/pid", &theirs); err != nil {
		return false, gone(err)
	}
	return ours.Ino == theirs.Ino && ours.Dev == theirs.Dev, nil
}

// notPivoted reports whether a process with these mounts still has the root directory
// and the /proc of the host, whose mounts are host's. With samePIDs, which says that it
// is in the host's pid namespace, that alone may be a process with private mounts; so
// there must also be a procfs that is not mounted on the host: that of the root file
// system to enter.
func notPivoted(mounts, host []mountinfo.Mount, samePIDs bool) bool {
	for _, point := range []string{"/", "/proc"} {
		m, ok := topmost(mounts, point)
		h, okHost := topmost(host, point)
		if !ok || !okHost || m.Dev != h.Dev || m.Root != h.Root {
			return false
		}
	}
	return !samePIDs || slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool {
		return m.FSType == "proc" && path.Base(m.Point) == "proc" &&
			!slices.ContainsFunc(host, func(h mountinfo.Mount) bool { return h.Point == m.Point })
	})
}

// topmost returns the mount at point that no other covers.
func topmost(mounts []mountinfo.Mount, point string) (top mountinfo.Mount, ok bool) {
	for _, m := range mounts {
		if m.Point == point && (!ok || m.Parent == top.ID) {
			top, ok = m, true
		}
	}
	return top, ok
}
