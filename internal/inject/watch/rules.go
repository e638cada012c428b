// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"vprocfs/internal/procpid"
)

// Rules override the decision of which processes are in a container.
type Rules struct {
	// Attach are patterns of cgroups whose processes count as a container if they
	// have a mount namespace of their own. Never are patterns of cgroups whose
	// processes do not count; they win.
	//
	// A pattern has the form that path.Match takes, and stands for the cgroups
	// that it matches and for those below them: "/user.slice" and "/docker/*".
	Attach, Never []string
}

// CheckPattern returns an error if a pattern of Rules is malformed.
func CheckPattern(pattern string) error {
	if !strings.HasPrefix(pattern, "/") || path.Clean(pattern) != pattern {
		return fmt.Errorf("%q is not the path of a cgroup: it must begin with a slash and end without one", pattern)
	}
	if _, err := path.Match(pattern, "/"); err != nil {
		return fmt.Errorf("%q: %w", pattern, err)
	}
	return nil
}

// verdict says whether a process is in a container.
type verdict int

const (
	never  verdict = iota
	notYet         // it is not, but may become one without another event
	ready          // it is, and its files can be attached
)

// facts are what the decision about a process rests on.
type facts struct {
	ownPIDNS  bool // its pid namespace is not that of this process
	ownMounts bool // its mount namespace is not that of this process or of the host's init
	// cgroups is the text of its /proc/PID/cgroup, parentCgroups that of its
	// parent. The latter is empty if there is no parent.
	cgroups, parentCgroups []byte
	// ownProcfs says that its /proc is a procfs that is not mounted on the host.
	ownProcfs bool
}

// judge decides from facts.
//
// A runtime puts a container in a cgroup of its own, so that its cgroup differs from
// that of the runtime, its parent. The sandboxes of desktop programs (bubblewrap,
// browsers) and unshare(1) have all the namespaces, but stay in the cgroup of their
// parent. Services of systemd share the host's pid namespace, unless they have
// PrivatePIDs= (systemd 257): then their own cgroup, which is named after the unit,
// tells.
func (r *Rules) judge(f *facts) verdict {
	if matches(r.Never, f.cgroups) {
		return never
	}
	if !matches(r.Attach, f.cgroups) {
		if !f.ownPIDNS || len(f.parentCgroups) == 0 {
			return never
		}
		// nspawn moves its container to another cgroup after it began.
		if isService(f.cgroups) || bytes.Equal(f.cgroups, f.parentCgroups) {
			return notYet
		}
	}
	if !f.ownMounts || !f.ownProcfs {
		return notYet
	}
	return ready
}

// matches reports whether one of the patterns matches one of the cgroups or an
// ancestor of it.
func matches(patterns []string, cgroups []byte) bool {
	if len(patterns) == 0 {
		return false
	}
	for _, p := range procpid.Cgroups(cgroups) {
		for dir := string(p); ; dir = path.Dir(dir) {
			for _, pattern := range patterns {
				if ok, _ := path.Match(pattern, dir); ok { // CheckPattern found no error
					return true
				}
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
	return false
}

// isService reports whether the cgroup is that of a service of systemd.
func isService(cgroups []byte) bool {
	p := procpid.Cgroup(cgroups, "name=systemd") // v1 and hybrid
	if p == nil {
		p = procpid.Cgroup(cgroups, "")
	}
	return bytes.HasSuffix(p, []byte(".service"))
}
