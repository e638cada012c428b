// SPDX-License-Identifier: Apache-2.0

package report

import (
	"regexp"
	"strconv"
	"strings"
)

// NameOf returns the name of the container with the control group: its runtime and the
// first 12 digits of its id, its pod, or the name that LXC, Incus, systemd-nspawn or systemd
// has given it. Containers in containers have their names after each other. A group that
// tells nothing has its own name.
func NameOf(group string) string {
	var names []string
	unit, parent := "", ""
	for part := range strings.SplitSeq(group, "/") {
		if name := nameOfPart(parent, part); name != "" {
			names, unit = append(names, name), ""
		} else if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			unit = part
		}
		parent = part
	}
	switch {
	case unit != "":
		names = append(names, unescape(unit))
	case len(names) == 0:
		return group
	}
	return strings.Join(names, "/")
}

// id is that of a container: 64 hexadecimal digits.
const id = `([0-9a-f]{12})[0-9a-f]{52}`

// shapes are the parts of paths that name a container.
var shapes = []struct {
	pattern *regexp.Regexp
	name    string // before what the pattern finds
}{
	{regexp.MustCompile(`^cri-containerd-` + id + `(?:\.scope)?$`), "containerd:"},
	{regexp.MustCompile(`^crio-` + id + `(?:\.scope)?$`), "crio:"},
	{regexp.MustCompile(`^docker-` + id + `(?:\.scope)?$`), "docker:"},
	{regexp.MustCompile(`^nerdctl-` + id + `(?:\.scope)?$`), "nerdctl:"},
	{regexp.MustCompile(`^libpod-` + id + `(?:\.scope)?$`), "podman:"},
	{regexp.MustCompile(`^` + id + `$`), ""},
	{regexp.MustCompile(`^(?:kubepods-(?:burstable-|besteffort-)?)?pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f_-]{22,24})(?:\.slice)?$`), "pod:"},
	{regexp.MustCompile(`^lxc\.payload\.(.+)$`), "lxc:"},
	{regexp.MustCompile(`^machine-(.+)\.scope$`), "machine:"},
}

// nameOfPart returns the name that a part of a path, below parent, stands for. It is empty
// if it stands for none.
func nameOfPart(parent, part string) string {
	if parent == "lxc" || parent == "lxc.payload" {
		return "lxc:" + part
	}
	for _, s := range shapes {
		if m := s.pattern.FindStringSubmatch(part); m != nil {
			name := unescape(m[1])
			if s.name == "pod:" {
				name = strings.ReplaceAll(name, "_", "-")
			}
			if s.name == "" && parent == "docker" {
				name = "docker:" + name
			}
			return s.name + name
		}
	}
	return ""
}

// unescape replaces what systemd-escape(1) has written as \x2d.
func unescape(s string) string {
	for i := 0; i+3 < len(s); i++ {
		if s[i] != '\\' || s[i+1] != 'x' {
			continue
		}
		if n, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
			s = s[:i] + string(byte(n)) + s[i+4:]
		}
	}
	return s
}
