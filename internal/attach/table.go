// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"slices"
	"strings"

	"vprocfs/internal/mountinfo"
)

// mentions reports whether the text of a mountinfo has a mount of one of types. Most
// have none and need not be parsed.
func mentions(text []byte) bool {
	return slices.ContainsFunc(types, func(t string) bool {
		return bytes.Contains(text, []byte(" - "+t+" "))
	})
}

// table finds mounts by their ids.
type table map[int]mountinfo.Mount

func newTable(mounts []mountinfo.Mount) table {
	t := make(table, len(mounts))
	for _, m := range mounts {
		t[m.ID] = m
	}
	return t
}

// below returns the mount that m is mounted on, without those at the same mount
// point: for every mount on /proc/uptime it returns the procfs.
func (t table) below(m mountinfo.Mount) (mountinfo.Mount, bool) {
	for range len(t) { // ends even if there were a cycle
		p, ok := t[m.Parent]
		if !ok {
			return mountinfo.Mount{}, false
		}
		if p.Point != m.Point {
			return p, true
		}
		m = p
	}
	return mountinfo.Mount{}, false
}

// candidate returns the path ("proc/uptime") of the file of procfs or sysfs that m
// covers. It returns false if m covers none or is not of one of types.
func (t table) candidate(m mountinfo.Mount) (string, bool) {
	if !slices.Contains(types, m.FSType) {
		return "", false
	}
	p, ok := t.below(m)
	if !ok || p.Root != "/" {
		return "", false
	}
	rel, ok := strings.CutPrefix(m.Point, strings.TrimSuffix(p.Point, "/")+"/")
	switch {
	case !ok:
		return "", false
	case p.FSType == "proc":
		return "proc/" + rel, true
	case p.FSType == "sysfs":
		return "sys/" + rel, true
	}
	return "", false
}

// hasBelow reports whether anything is mounted below the directory point.
func hasBelow(mounts []mountinfo.Mount, point string) bool {
	return slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return strings.HasPrefix(m.Point, point+"/") })
}
