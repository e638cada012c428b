// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFiguresAreDrawn: each plot names the peers that have figures, and no other.
func TestFiguresAreDrawn(t *testing.T) {
	at := filepath.Join(t.TempDir(), "benchmarks.md")
	f := &figures{
		Files: []fileFigure{
			{"cycle", "uptime", map[string]timing{floor: {70, 245}, vprocfs: {86, 325}}},
			{"pread", "other", map[string]timing{lxcfs: {70, 245}}},
		},
		Newcomers:  []newcomerFigure{{vprocfs, 1, timing{1024, 2758}}, {forking, 1, timing{5627, 11457}}, {lxcfs, 1, timing{-3, 5}}},
		Containers: []containerFigure{{vprocfs, 10, 0.5, 1, 0}, {vprocfs, 1000, 2.1, 50, 0}, {lxcfs, 1000, 396, 128, 0}},
	}
	if err := f.write(at); err != nil {
		t.Fatal(err)
	}
	for end, want := range map[string]struct{ has, lacks []string }{
		"-latency.svg":    {[]string{"FUSE alone", "vprocfs", "uptime", "microseconds"}, []string{"LXCFS", "other"}},
		"-init.svg":       {[]string{"vprocfs, fork", "10000"}, []string{"vprocfs, parents"}},
		"-containers.svg": {[]string{"LXCFS", "1000", "milliseconds"}, []string{"FUSE alone"}},
	} {
		text, err := os.ReadFile(beside(at, end))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range want.has {
			if !strings.Contains(string(text), ">"+s+"<") {
				t.Errorf("%s does not have %q", end, s)
			}
		}
		for _, s := range want.lacks {
			if strings.Contains(string(text), ">"+s+"<") {
				t.Errorf("%s has %q", end, s)
			}
		}
		if err := os.Remove(beside(at, end)); err != nil {
			t.Fatal(err)
		}
	}
	// From the JSON again.
	if err := plotCommand([]string{beside(at, ".json")}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(beside(at, "-latency.svg")); err != nil {
		t.Error(err)
	}
}

func TestWhatWasNotMeasuredIsNotDrawn(t *testing.T) {
	at := filepath.Join(t.TempDir(), "benchmarks.md")
	if err := new(figures).write(at); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Dir(at) + "/*")
	if err != nil || len(files) != 1 {
		t.Errorf("%q, %v, want the JSON alone", files, err)
	}
}
