// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
)

// A runtime masks files below sysDirs after it has changed the root of a container, and may
// do so while a helper is at work. A mount over the directory would uncover them.

// openMounts opens the mountinfo of process pid, to be read again in the container.
func (c *container) openMounts(pid int) (err error) {
	c.mountsFD, err = unix.Open(hostProc+"/"+strconv.Itoa(pid)+"/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return gone(err)
}

// uncover finishes the directories that were just attached, which are the items with the
// indices dirs and have the roots files: if one covers masks, its files replace it.
func (c *container) uncover(dirs, files []int, j *job, tell func(Result) error) error {
	if len(dirs) == 0 {
		return nil
	}
	mounts, err := mountinfo.LoadFD(c.mountsFD)
	for _, i := range dirs {
		it := j.Items[i]
		results := []Result{{Target: it.target(), State: Attached}}
		covers, idErr := covers(mounts, files[i])
		switch {
		case err != nil || idErr != nil:
			results[0] = Result{Target: it.target(), State: Failed, Err: errors.Join(err, idErr, unmount(files[i]))}
		case covers:
			results = c.showFiles(files[i], it, filesOf(it.Path), j)
		}
		for _, r := range results {
			if err := tell(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// covers reports whether the mount with the root fd covers others that are mounted below
// the same directory.
func covers(mounts []mountinfo.Mount, fd int) (bool, error) {
	id, err := mountID(fd)
	if err != nil {
		return false, err
	}
	own, ok := mountOf(mounts, id)
	return ok && slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool {
		return m.Parent == own.Parent && strings.HasPrefix(m.Point, own.Point+"/")
	}), nil
}

// showFiles attaches files of a directory in place of the directory, whose mount with
// the root dir covers masks.
func (c *container) showFiles(dir int, it item, names []string, j *job) []Result {
	var results []Result
	files := make([]int, len(names))
	errs := make([]error, len(names))
	for i, name := range names {
		files[i], errs[i] = unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	}
	defer closeAll(files)
	if err := unmount(dir); err != nil {
		return []Result{{Target: "/" + it.Path, State: Failed, Err: fmt.Errorf("it covers masks of the container: %w", err)}}
	}
	for i, name := range names {
		r := Result{Target: "/" + path.Join(it.Path, name), Err: errs[i]}
		if errors.Is(r.Err, unix.ENOENT) {
			continue // the daemon does not serve it
		}
		if r.Err == nil {
			r.State, r.Err = c.show(files[i], item{Path: path.Join(it.Path, name), Optional: true}, j)
		}
		if r.Err != nil {
			r.State = Failed
		}
		results = append(results, r)
	}
	return results
}
