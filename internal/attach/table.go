package attach

import (
	"bytes"
	"slices"
	"strings"

	"vprocfs/internal/mountinfo"
)

// mentions tells whether a mount of one of our types is in the text: few
// namespaces have one, so the others need not be parsed.
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

// below returns the mount that m is mounted on at last, past those that share its
// mount point with it: that of the procfs for any mount on /proc/uptime.
func (t table) below(m mountinfo.Mount) (mountinfo.Mount, bool) {
	for range len(t) { // a cycle is not for the kernel to make
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

// candidate returns the path below a root ("proc/uptime") of the file of procfs
// or sysfs that m, a mount of one of our types, covers.
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

// hasBelow tells whether anything is mounted below the directory point.
func hasBelow(mounts []mountinfo.Mount, point string) bool {
	return slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return strings.HasPrefix(m.Point, point+"/") })
}
