package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vprocfs/internal/mountinfo"
	"vprocfs/internal/procpid"
)

// hierarchy is one mounted tree of control groups that this process is in.
type hierarchy struct {
	v2          bool
	controllers []string // v1: those of the hierarchy; v2: nil, see cgroup.controllers
	mount       string   // where the tree is mounted
	own         string   // directory of the cgroup of this process, below or equal to mount
}

// has tells whether a v1 hierarchy has the controller.
func (h *hierarchy) has(controller string) bool {
	return slices.Contains(h.controllers, controller)
}

// findHierarchies returns each v1 hierarchy that has a controller, and the v2
// tree, where they are mounted. A v1 hierarchy that only has a name (systemd's)
// is left alone: nothing in it limits or counts.
//
// It is wider than procvirt/cgroup, which knows only the controllers that the
// view is made from: a container of its own also wants its own pids, freezer
// and blkio groups.
func findHierarchies() ([]hierarchy, error) {
	mounts, err := mountinfo.Load("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return hierarchiesIn(mounts, string(membership))
}

// hierarchiesIn does findHierarchies' work on a mount table and the text of
// /proc/PID/cgroup (cgroups(7)).
func hierarchiesIn(mounts []mountinfo.Mount, membership string) ([]hierarchy, error) {
	paths := make(map[string]string) // controllers, "" for v2 -> path
	for controllers, path := range procpid.Cgroups([]byte(membership)) {
		paths[string(controllers)] = string(path)
	}
	var found []hierarchy
	for _, m := range mounts {
		if m.FSType != "cgroup" && m.FSType != "cgroup2" {
			continue
		}
		h := hierarchy{v2: m.FSType == "cgroup2", mount: m.Point}
		if !h.v2 {
			h.controllers = v1Controllers(m.Options, paths)
			if len(h.controllers) == 0 {
				continue
			}
		}
		path, ok := paths[strings.Join(h.controllers, ",")]
		rel, below := below(path, m.Root)
		if !ok || !below {
			continue // a mount of a part of the tree that we are not in
		}
		h.own = filepath.Join(h.mount, rel)
		if !slices.ContainsFunc(found, func(o hierarchy) bool {
			return o.v2 == h.v2 && slices.Equal(o.controllers, h.controllers)
		}) {
			found = append(found, h)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted that this process is in")
	}
	return found, nil
}

// v1Controllers takes the controllers of a v1 hierarchy out of its super
// options, in the order in which /proc/PID/cgroup lists them.
func v1Controllers(options string, paths map[string]string) []string {
	opts := strings.Split(options, ",")
	for list := range paths {
		names := strings.Split(list, ",")
		if list != "" && !strings.HasPrefix(list, "name=") && slices.Contains(opts, names[0]) {
			return names
		}
	}
	return nil
}

// below cuts the mounted part of the tree off a cgroup path. It is false where
// the path is not in that part.
func below(path, root string) (string, bool) {
	if root == "/" {
		return path, !strings.HasPrefix(path, "/..")
	}
	rel, ok := strings.CutPrefix(path, root)
	return rel, ok && (rel == "" || rel[0] == '/')
}
