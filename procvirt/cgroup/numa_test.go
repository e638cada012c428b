// SPDX-License-Identifier: Apache-2.0

package cgroup

import "testing"

func TestNodeStatIsTheColumnOfTheNode(t *testing.T) {
	for _, c := range []struct {
		text       string
		v2         bool
		node       int
		anon, file uint64
	}{
		{"anon N0=1 N1=20 N11=300\nfile N0=5\n", true, 1, 20, 0},
		{"anon N0=1 N1=20 N11=300\nfile N0=5\n", true, 0, 1, 5},
		{"anon N0=1 N1=20 N11=300\nfile N0=5\n", true, 11, 300, 0},
		{"total=9 N0=9\nfile=1 N0=1\nhierarchical_file=3 N0=2 N1=1\nhierarchical_anon=4 N1=4\n", false, 1, 4 << 12, 1 << 12},
	} {
		var s MemoryStat
		parseNUMAStat(&s, []byte(c.text), c.node, c.v2)
		if s.Anon != c.anon || s.File != c.file {
			t.Errorf("node %d of %q: anon %d, file %d", c.node, c.text, s.Anon, s.File)
		}
	}
}

func FuzzNUMAStat(f *testing.F) {
	f.Add("anon N0=18446744073709551615 N0=\nfile N0=5", true, 0)
	f.Add("hierarchical_file=18446744073709551615 N0=18446744073709551615", false, 0)
	f.Fuzz(func(t *testing.T, text string, v2 bool, node int) {
		var s MemoryStat
		parseNUMAStat(&s, []byte(text), node, v2)
		if s.Used() < s.Anon {
			t.Fatalf("%q: wrapped around", text)
		}
	})
}
