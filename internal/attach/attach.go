// Package attach puts files of the view into mount namespaces of containers that
// run already: Attach into one that was started without them, Heal into all that
// still show those of a daemon that is dead.
//
// It knows mounts and nothing else: not what the files say, not how they are
// served. No process of a container is touched, stopped or waited for.
//
// Everything in a container is hostile: its tree may lead anywhere, and any path
// walk in it may hang, for it may serve a file system itself. So this package's
// own process only reads mountinfo, which nobody can hold up. All else is done by
// helper processes, one for each container at a time, that are killed or left
// alone when they do not answer (helper.go). It needs root and Linux 5.6.
package attach

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// types are the file system types whose dead mounts are replaced: our own, and
// that of LXCFS and of whoever stands in for it.
var types = []string{"fuse.vprocfs", "fuse.lxcfs"}

// State is what has become of one file.
type State string

// The states. Only Failed means that the file is not shown as it should be.
const (
	Attached State = "attached"         // over the kernel's own file
	Present  State = "already attached" // it was shown before
	Replaced State = "replaced"         // in the place of a mount of a dead daemon, or of another's
	Removed  State = "removed"          // a dead mount of a file that the daemon does not serve: the kernel's own shows
	Absent   State = "absent"           // the container's kernel or /proc has no such file
	Gone     State = "gone"             // the mount to replace is dead no more, or there no more
	Failed   State = "failed"
)

// Result tells of one file of one container.
type Result struct {
	// Target is the path of the file, as the container sees it.
	Target string
	State  State
	// Err says why; it is nil but for Failed.
	Err error
}

// Options say what Attach does.
type Options struct {
	// Dir is the mount point of the daemon whose view is shown, in the mount
	// namespace of this process.
	Dir string
	// Files are the files to attach; none for all that the daemon serves and the
	// container has, less what the runtime has masked. See
	// ParseFile.
	Files []string
	// Replace also takes the place of a living mount of LXCFS or of another
	// daemon of ours.
	Replace bool
}

// ParseFile returns the path below the root of a file to attach: "uptime",
// "proc/uptime" and "/proc/uptime" are the same one. It fails for what is not
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

// Attach shows the files in the mount namespace of process pid, below the root
// that pid has. What can be attached is, whatever becomes of the others; err is
// for what concerns them all. To do it again changes nothing.
func Attach(ctx context.Context, pid int, o Options) ([]Result, error) {
	j := job{PID: pid, Dir: o.Dir, Replace: o.Replace}
	for _, f := range o.Files {
		p, err := ParseFile(f)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(j.Items, func(i item) bool { return i.Path == p }) {
			j.Items = append(j.Items, item{Path: p})
		}
	}
	return run(ctx, j, patience)
}
