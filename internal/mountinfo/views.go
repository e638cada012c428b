// SPDX-License-Identifier: Apache-2.0

package mountinfo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPIDs is how many processes of a View are returned, in case some end.
const maxPIDs = 4

// View is a root directory in a mount namespace. The mountinfo of a process has only
// the mounts below the root directory of the process.
type View struct {
	NS   uint64 // inode of the mount namespace
	PIDs []int  // some processes that have this namespace and root, at least one
}

// Read returns the text of the mountinfo of the view. It drops processes that have ended
// from PIDs, and returns nil if none is left.
func (v *View) Read(proc string) ([]byte, error) {
	for ; len(v.PIDs) > 0; v.PIDs = v.PIDs[1:] {
		text, err := Read(filepath.Join(proc, strconv.Itoa(v.PIDs[0]), "mountinfo"))
		// EINVAL is for a zombie, which has no namespaces.
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) {
			return text, err
		}
	}
	return nil, nil
}

// Views returns all views that processes have. It never waits for a file system. The
// order is that of the lowest process ids.
func Views(proc string) ([]View, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", proc, err)
	}
	type key struct {
		ns   uint64
		root string
	}
	seen := make(map[key]int) // index in views
	var views []View
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		ns, err := Namespace(proc, name)
		if err != nil {
			continue // an ended process has no namespace
		}
		// The kernel prints the path of the root directory. It does not walk it.
		root, err := os.Readlink(filepath.Join(proc, name, "root"))
		if err != nil {
			continue
		}
		i, ok := seen[key{ns, root}]
		if !ok {
			i = len(views)
			seen[key{ns, root}], views = i, append(views, View{NS: ns})
		}
		if v := &views[i]; len(v.PIDs) < maxPIDs {
			v.PIDs = append(v.PIDs, pid)
		}
	}
	return views, nil
}

// Namespace returns the inode of the mount namespace of a process, which is a pid or
// "self".
func Namespace(proc, pid string) (uint64, error) {
	path := filepath.Join(proc, pid, "ns/mnt")
	link, err := os.Readlink(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(link, "mnt:["), "]"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: unexpected link %q", path, link)
	}
	return n, nil
}
