// SPDX-License-Identifier: Apache-2.0

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

// notPivoted reports whether a process with these mounts, whose root directory is on
// mount root, still has the root directory and the /proc of the host, whose mounts are
// host's. With samePIDs, which says that it is in the host's pid namespace, that alone
// may be a process with private mounts; so there must also be a procfs that is not
// mounted on the host: that of the root file system to enter.
//
// After pivot_root(2) the runtime unmounts the old root. Until then that may still be
// in mounts, even over the new one.
func notPivoted(root int, mounts, host []mountinfo.Mount, samePIDs bool) bool {
	m, ok := mountOf(mounts, root)
	h, okHost := topmost(host, "/", 0)
	for _, point := range []string{"/", "/proc"} {
		if point == "/proc" {
			m, ok = topmost(mounts, point, m.ID)
			h, okHost = topmost(host, point, h.ID)
		}
		if !ok || !okHost || m.Dev != h.Dev || m.Root != h.Root {
			return false
		}
	}
	return !samePIDs || slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool {
		return m.FSType == "proc" && path.Base(m.Point) == "proc" &&
			!slices.ContainsFunc(host, func(h mountinfo.Mount) bool { return h.Point == m.Point })
	})
}

// mountOf returns the mount with an id.
func mountOf(mounts []mountinfo.Mount, id int) (mountinfo.Mount, bool) {
	for _, m := range mounts {
		if m.ID == id {
			return m, true
		}
	}
	return mountinfo.Mount{}, false
}

// topmost returns the mount at point, on mount parent, that no other covers. With
// parent 0 the first one may be on any mount.
func topmost(mounts []mountinfo.Mount, point string, parent int) (top mountinfo.Mount, ok bool) {
	for _, m := range mounts {
		if m.Point == point && (!ok && (parent == 0 || m.Parent == parent) || ok && m.Parent == top.ID) {
			top, ok = m, true
		}
	}
	return top, ok
}
