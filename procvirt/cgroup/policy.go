// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
)

// PolicyAttribute is the extended attribute of a group's directory that holds the
// policy for the containers in it. Only a process with CAP_SYS_ADMIN in the initial
// user namespace may set or see it (xattr(7), trusted extended attributes).
const PolicyAttribute = "trusted.vprocfs"

// policyAttribute is PolicyAttribute with the NUL byte that held wants.
var policyAttribute = [...]byte{'t', 'r', 'u', 's', 't', 'e', 'd', '.', 'v', 'p', 'r', 'o', 'c', 'f', 's', 0}

// procsFile is a file that every group of v1 and v2 has.
var procsFile = [...]byte{'c', 'g', 'r', 'o', 'u', 'p', '.', 'p', 'r', 'o', 'c', 's', 0}

// PolicyFiles keeps open the directories that may have a policy: the container's group
// and its ancestors, nearest first. The methods are safe for concurrent use, except
// Close.
type PolicyFiles struct {
	files
	dirs []string
}

// OpenPolicy opens the directories of a place. A place without Dirs has no policy, and
// neither has the root group of the tree.
func OpenPolicy(o *held.Opener, p Place) (*PolicyFiles, error) {
	f := &PolicyFiles{files: files{opener: o}, dirs: p.Dirs}
	if p.Root {
		f.dirs = nil
	}
	for i, dir := range f.dirs {
		f.must(i, dir)
	}
	if errors.Is(f.err, unix.ENOENT) {
		f.err = fmt.Errorf("%w: %w", ErrRemoved, f.err)
	}
	return opened(f, &f.files)
}

// Dirs returns the paths of the directories, nearest first.
func (f *PolicyFiles) Dirs() []string { return f.dirs }

// PolicyEnd ends the text of each level in what Read returns.
const PolicyEnd = 0

// Read returns the policies of all levels as they are now, nearest first, each followed
// by a PolicyEnd; and nothing if no level has one. A policy of more than
// held.MaxAttribute bytes reads as "?". It works in buf, which it returns, grown if
// needed.
//
// It costs one system call for each level, two for a level with a policy. There is no
// cheaper sign of a change: the kernel does not change the times of the directory
// (kernfs_vfs_xattr_set, fs/kernfs/inode.c).
func (f *PolicyFiles) Read(buf []byte) ([]byte, error) { return readPolicies(f.open, buf) }

// ReadOwn is Read for the container's own group alone.
func (f *PolicyFiles) ReadOwn(buf []byte) ([]byte, error) {
	return readPolicies(f.open[:min(1, len(f.open))], buf)
}

func readPolicies(levels []*held.File, buf []byte) ([]byte, error) {
	buf = buf[:0]
	any := false
	for _, level := range levels {
		n := len(buf)
		var err error
		if buf, err = level.Attribute(policyAttribute[:], buf); err != nil {
			if e, ok := err.(*held.ReadError); !ok || e.Errno != unix.ERANGE {
				return buf, err
			}
			buf = append(buf, '?')
		}
		any = any || len(buf) > n
		buf = append(buf, PolicyEnd)
	}
	if !any {
		return buf[:0], nil
	}
	return buf, nil
}

// Removed reports whether the container's group is removed. Its directory still has
// the policy then.
func (f *PolicyFiles) Removed() bool {
	return len(f.open) > 0 && !f.open[0].Has(procsFile[:])
}
