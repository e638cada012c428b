// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"

	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
)

func cgroupsFile() File {
	return File{
		Path: "proc/cgroups", Node: 24, Mode: 0o444, Size: SizePage,
		fromHost: true,
		host:     host.Source{Optional: true},
		numbers:  func() numbers { return new(cgroups) },
	}
}

// cgroups is what /proc/cgroups shows: the controllers that the container has.
type cgroups struct {
	text []byte // the host's
	// hasV2 is set if a v2 tree is mounted, and v2 is the names of the controllers that it
	// has, separated by blanks.
	hasV2 bool
	v2    []byte
}

func (n *cgroups) reset() { *n = cgroups{v2: n.v2[:0]} }

func (n *cgroups) gather(c *Container) (err error) {
	if err := c.inGroup(); err != nil {
		return err
	}
	if c.host, err = c.registry.readHost("proc/cgroups", c.host); err != nil {
		return err
	}
	n.text = c.host
	n.hasV2 = c.registry.mounts.HasV2()
	n.v2 = c.registry.mounts.AppendV2Controllers(n.v2)
	return nil
}

// append writes /proc/cgroups (proc_cgroupstats_show, kernel/cgroup/cgroup-v1.c): of each
// controller the name, the hierarchy, the number of groups, of which the container sees
// one, and whether it is enabled.
//
// The lines are the host's, without those of controllers that are disabled or in no
// hierarchy. Then come the v2 controllers that the host's file leaves out: since Linux
// 6.12 those without v1 code. JVMs before JDK 25 take the host's memory for theirs if
// memory, cpu, cpuacct or, in older versions, cpuset is missing
// (cgroupSubsystem_linux.cpp).
//
// A v2 controller that is enabled only above the container is listed too: its limits hold.
func (n *cgroups) append(dst []byte) []byte {
	lines := len(dst)
	for line := range scan.Lines(n.text) {
		if bytes.HasPrefix(line, []byte("#")) {
			dst = append(append(dst, line...), '\n')
			continue
		}
		name, rest := scan.Field(line)
		hierarchy, rest := scan.Field(rest)
		_, rest = scan.Field(rest)
		enabled, _ := scan.Field(rest)
		if string(enabled) == "1" && (string(hierarchy) != "0" || n.hasV2 && isImplicit(name) || hasWord(n.v2, name)) {
			dst = appendController(dst, name, hierarchy)
		}
	}
	for v2 := n.v2; ; {
		var name []byte
		if name, v2 = scan.Field(v2); len(name) == 0 {
			return dst
		}
		if !isListed(dst[lines:], name) {
			dst = appendController(dst, name, []byte("0"))
		}
	}
}

// isImplicit reports whether every v2 group has the controller, so that it is in no
// cgroup.controllers.
func isImplicit(name []byte) bool {
	switch string(name) {
	case "cpuacct", "devices", "freezer", "perf_event":
		return true
	}
	return false
}

func appendController(dst, name, hierarchy []byte) []byte {
	dst = append(dst, name...)
	dst = append(dst, '\t')
	dst = append(dst, hierarchy...)
	return append(dst, "\t1\t1\n"...)
}

// isListed reports whether one of the lines is about the controller.
func isListed(lines, name []byte) bool {
	for line := range scan.Lines(lines) {
		if first, _ := scan.Field(line); bytes.Equal(first, name) {
			return true
		}
	}
	return false
}

// hasWord reports whether words, separated by blanks, has the given one.
func hasWord(words, word []byte) bool {
	for {
		var w []byte
		if w, words = scan.Field(words); len(w) == 0 {
			return false
		}
		if bytes.Equal(w, word) {
			return true
		}
	}
}
