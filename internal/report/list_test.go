// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"testing"
	"unicode/utf8"

	"vprocfs/procvirt"
)

func some() []Container {
	return []Container{
		{"docker:0123456789ab", procvirt.ContainerInfo{Init: 17, CPUs: 2, Memory: 1 << 30, PerSecond: 3, Reads: 9, Load: "0.50 0.40 0.30", Uptime: 90}},
		{"pod:1c9f1d7e-5e4b-4f6c-9a3d-2b1a0c9d8e7f/containerd:fedcba987654", procvirt.ContainerInfo{Init: 4194304, CPUs: 128, Memory: 3 << 39, PerSecond: 12345, Reads: 1 << 40, Policy: []procvirt.PolicyWord{{Key: "swap", Value: "off"}}}},
		{"lxc:evil\x1b[2J", procvirt.ContainerInfo{Init: 18, Fallbacks: 7}},
	}
}

// TestTheListFitsTheTerminal: a narrow one has fewer columns, and the name stays.
func TestTheListFitsTheTerminal(t *testing.T) {
	columnsAt := map[int]int{}
	for _, width := range []int{0, 20, 40, 80, 100, 120, 200} {
		lines := table(some(), width)
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); width > 0 && n > width {
				t.Errorf("%d columns: %d wide: %s", width, n, line)
			}
			if strings.Contains(line, "\x1b") {
				t.Errorf("%q", line)
			}
		}
		columnsAt[width] = len(strings.Fields(lines[0]))
		if len(lines) != 4 || !strings.HasPrefix(lines[0], "NAME") || width >= 80 && !strings.Contains(lines[0], "READS/S") {
			t.Errorf("%d columns:\n%s", width, strings.Join(lines, "\n"))
		}
	}
	if columnsAt[0] != len(columns()) || columnsAt[200] != len(columns()) || columnsAt[80] >= columnsAt[120] {
		t.Errorf("%v", columnsAt)
	}
}

// TestTheListIsSortedAndFiltered: those that an operator looks for come first.
func TestTheListIsSortedAndFiltered(t *testing.T) {
	for _, c := range []struct {
		options ListOptions
		want    string
	}{
		{ListOptions{Sort: "reads/s"}, "4194304 17 18"},
		{ListOptions{Sort: "reads/s", Reverse: true}, "18 17 4194304"},
		{ListOptions{Sort: "NAME"}, "17 18 4194304"},
		{ListOptions{Sort: "load"}, "17 18 4194304"},
		{ListOptions{Sort: "fallbacks"}, "18 17 4194304"},
		{ListOptions{Sort: "init", Filter: "docker"}, "17"},
		{ListOptions{Sort: "init", Filter: "none"}, ""},
	} {
		if err := c.options.Check(); err != nil {
			t.Error(err)
		}
		var got []string
		for _, container := range c.options.choose(some()) {
			got = append(got, columns()[1].text(&container))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q, want %q", c.options, got, c.want)
		}
	}
	if (&ListOptions{Sort: "colour"}).Check() == nil {
		t.Error("no error for a column that does not exist")
	}
}
