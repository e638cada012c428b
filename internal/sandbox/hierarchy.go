// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vprocfs/internal/mountinfo"
	"vprocfs/internal/procpid"
)

// hierarchy is a mounted cgroup hierarchy that this process is in.
type hierarchy struct {
	v2          bool
	controllers []string // of a v1 hierarchy; nil for v2, which has cgroup.controllers
	mount       string   // mount point
	own         string   // directory of the cgroup of this process, mount or below it
}

// has reports whether a v1 hierarchy has the controller.
func (h *hierarchy) has(controller string) bool {
	return slices.Contains(h.controllers, controller)
}

// findHierarchies returns the mounted v1 hierarchies that have a controller, and the
// v2 hierarchy. It leaves out a v1 hierarchy that has only a name (systemd's), which
// limits and counts nothing.
//
// Unlike procvirt/cgroup, it includes controllers that the view does not show: a
// container also has pids, freezer and blkio cgroups of its own.
func findHierarchies() ([]hierarchy, error) {
	mounts, err := mountinfo.Load("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return hierarchiesIn(mounts, membership)
}

// hierarchiesIn returns the hierarchies of a mount table. membership is the content
// of /proc/PID/cgroup (cgroups(7)).
func hierarchiesIn(mounts []mountinfo.Mount, membership []byte) ([]hierarchy, error) {
	paths := make(map[string]string) // by controllers; "" for v2
	for controllers, path := range procpid.Cgroups(membership) {
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
			continue // a mount of a part of the hierarchy that we are not in
		}
		h.own = filepath.Join(h.mount, rel)
		if !slices.ContainsFunc(found, func(o hierarchy) bool {
			return o.v2 == h.v2 && slices.Equal(o.controllers, h.controllers)
		}) {
			found = append(found, h)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted that this process is in")
	}
	return found, nil
}

// v1Controllers returns the controllers of a v1 hierarchy with these superblock
// options, in the order of /proc/PID/cgroup.
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

// below returns a cgroup path relative to the mounted part of the hierarchy. It
// returns false if the path is not in that part.
func below(path, root string) (string, bool) {
	if root == "/" {
		return path, !strings.HasPrefix(path, "/..")
	}
	rel, ok := strings.CutPrefix(path, root)
	return rel, ok && (rel == "" || rel[0] == '/')
}
