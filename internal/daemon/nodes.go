// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/procvirt"
)

// Kernels keep node ids over a restart of the daemon. Those of directories, like those of
// files (procvirt.File.Node), are never changed and never used again.
const (
	nodeCPU         = 6
	nodeNUMA        = 8
	nodeCPUPossible = 34
)

// directories are all directories of the view, each after the one that it is in.
var directories = [...]fs.Node{
	{ID: fs.NodeRoot, Path: "", Mode: unix.S_IFDIR | 0o555},
	{ID: 2, Path: "proc", Mode: unix.S_IFDIR | 0o555},
	{ID: 7, Path: "proc/pressure", Mode: unix.S_IFDIR | 0o555},
	{ID: 3, Path: "sys", Mode: unix.S_IFDIR | 0o555},
	{ID: 4, Path: "sys/devices", Mode: unix.S_IFDIR | 0o755},
	{ID: 5, Path: "sys/devices/system", Mode: unix.S_IFDIR | 0o755},
	{ID: nodeCPU, Path: "sys/devices/system/cpu", Mode: unix.S_IFDIR | 0o755},
	{ID: nodeNUMA, Path: "sys/devices/system/node", Mode: unix.S_IFDIR | 0o755},
}

// pageSize is st_size of a file that says procvirt.SizePage, in bytes.
const pageSize = 4096

// nodes returns the files as package fs serves them, and the directories that they are in,
// but for those whose paths begin with one of the prefixes without.
func nodes(files []*procvirt.File, without ...string) []fs.Node {
	var all []fs.Node
	used := map[string]bool{"": true}
	for _, f := range files {
		if slices.ContainsFunc(without, func(prefix string) bool { return strings.HasPrefix(f.Path, prefix) }) {
			continue
		}
		n := fs.Node{ID: fs.NodeID(f.Node), Path: f.Path, Mode: unix.S_IFREG | f.Mode}
		if f.Size == procvirt.SizePage {
			n.Bound = pageSize
		}
		all = append(all, n)
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			used[dir] = true
		}
	}
	for _, dir := range directories {
		if used[dir.Path] {
			all = append(all, dir)
		}
	}
	return all
}
