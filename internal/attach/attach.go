// SPDX-License-Identifier: Apache-2.0

// Package attach mounts files of the view in containers that already run: Attach
// in one container that was started without them, Heal in every container that
// still has the files of a dead daemon.
//
// It knows mounts only: not what the files contain, nor how they are served. It does
// not stop, signal or wait for any process of a container.
//
// Everything in a container is hostile. A path may lead anywhere, and any path walk
// may hang, because the container may serve a file system itself. So the process
// that calls this package only reads /proc, which no container can delay. Helper
// processes do the rest. One that does not answer in time is killed, or left behind
// if it cannot be killed (helper.go). The package needs root and Linux 5.6.
package attach

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// types are the file system types whose dead mounts are replaced: that of vprocfs,
// and that of LXCFS and of programs that replace it.
var types = []string{"fuse.vprocfs", "fuse.lxcfs"}

// State is what Attach or Heal did with one file.
type State string

// The states of a file. With Failed the view is not shown; Result.Err says why.
const (
	Attached State = "attached"         // mounted over the kernel's file
	Present  State = "already attached" // it was mounted before
	Replaced State = "replaced"         // mounted in place of the file of a dead or another daemon
	Removed  State = "removed"          // dead mount removed; the daemon does not serve the file
	Absent   State = "absent"           // the container's /proc or /sys has no such file
	Gone     State = "gone"             // the mount to replace is no longer dead or no longer there
	Failed   State = "failed"
)

// Result is the outcome for one file of one container.
type Result struct {
	// Target is the path of the file, as the container sees it.
	Target string
	State  State
	// Err is set if State is Failed.
	Err error
}

// Options are the options of Attach.
type Options struct {
	// Dir is the mount point of the daemon whose view is shown, in the mount
	// namespace of this process.
	Dir string
	// Files are the files to attach, in the form that ParseFile takes. If there
	// are none, Attach attaches all files that the daemon serves and the
	// container has, except those that the runtime has masked.
	Files []string
	// Replace also replaces a living mount of LXCFS or of another vprocfs.
	Replace bool
	// IDMap maps the owner of the files, root, to root of the container's user
	// namespace, if it has one of its own. The daemon must allow it.
	IDMap bool
	// Rootfs is the directory that the container is about to enter, for a process
	// that has not called pivot_root(2) yet, as at the createRuntime stage of OCI
	// runtimes. It is a path in the mount namespace of the process. If it is empty,
	// the root directory of the process is the container's.
	Rootfs string
	// Timeout is how long Attach may take; 0 is ten seconds.
	Timeout time.Duration
}

// ParseFile returns the path of a file below the root directory: "proc/uptime" for
// "uptime", "proc/uptime" and "/proc/uptime". It returns an error if the file is not
// below /proc or /sys.
func ParseFile(name string) (string, error) {
	p := strings.TrimPrefix(name, "/")
	first, _, nested := strings.Cut(p, "/")
	if first != "proc" && first != "sys" {
		if strings.HasPrefix(name, "/") {
			return "", fmt.Errorf("%q is not below /proc or /sys", name)
		}
		p, nested = "proc/"+p, true
	}
	if !nested || path.Clean(p) != p || path.Base(p) == ".." {
		return "", fmt.Errorf("%q is not the name of a file", name)
	}
	return p, nil
}

// Attach mounts the files in the mount namespace of process pid, below the root
// directory of pid or below Options.Rootfs. If pid has not entered the root file system
// of its container yet and Rootfs is empty, Attach returns ErrNotPivoted. A file that fails does not stop the others; the returned error
// concerns all files. A second Attach changes nothing.
func Attach(ctx context.Context, pid int, o Options) ([]Result, error) {
	j := job{PID: pid, Dir: o.Dir, Replace: o.Replace, IDMap: o.IDMap, Rootfs: o.Rootfs}
	for _, f := range o.Files {
		p, err := ParseFile(f)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(j.Items, func(i item) bool { return i.Path == p }) {
			j.Items = append(j.Items, item{Path: p})
		}
	}
	return run(ctx, j, cmp.Or(o.Timeout, patience))
}
