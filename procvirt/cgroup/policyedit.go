// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
)

// PolicyPlace returns the place of the group with the directory dir, in the hierarchy
// where policies are: that of memory, or else of cpu, or else v2. Symbolic links in dir
// are followed.
func (m *Mounts) PolicyPlace(dir string) (Place, error) {
	h, name := m.policyHierarchy()
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return Place{}, err
	}
	rel, err := filepath.Rel(h.dir, dir)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return Place{}, fmt.Errorf("%s is not below %s, where policies are (%s)", dir, h.dir, name)
	}
	if !isDir(dir) {
		return Place{}, fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
	}
	return h.place(filepath.Join(h.top, rel))
}

// policyHierarchy returns the hierarchy where policies are, and its name.
func (m *Mounts) policyHierarchy() (*hierarchy, string) {
	for _, c := range [...]Controller{Memory, CPU} {
		switch {
		case m.v1[c] != nil:
			return m.v1[c], "the v1 hierarchy of " + c.String()
		case m.v2 != nil && m.inV2[c]:
			return m.v2, "v2"
		}
	}
	if m.v2 != nil {
		return m.v2, "v2"
	}
	return m.v1[CPUAcct], "the v1 hierarchy of cpuacct"
}

// ReadPolicy returns the policy of one directory, "" if it has none.
func ReadPolicy(dir string) (string, error) {
	var o held.Opener
	f, err := o.Open(dir)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := f.Attribute(policyAttribute[:], nil)
	if err != nil {
		return "", fmt.Errorf("%s of %w", PolicyAttribute, err)
	}
	return string(text), nil
}

// WritePolicy makes text the policy of the directory, and removes that if text is empty.
// EPERM says that this process has no CAP_SYS_ADMIN in the initial user namespace.
func WritePolicy(dir, text string) error {
	var err error
	switch {
	case len(text) > held.MaxAttribute:
		err = unix.E2BIG
	case text != "":
		err = unix.Lsetxattr(dir, PolicyAttribute, []byte(text), 0)
	default:
		if err = unix.Lremovexattr(dir, PolicyAttribute); err == unix.ENODATA {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("write %s of %s: %w", PolicyAttribute, dir, err)
	}
	return nil
}
