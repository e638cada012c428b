// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestManifestsAreTheChart: the files for kustomize are those that `make manifests` writes.
func TestManifestsAreTheChart(t *testing.T) {
	for _, b := range bases() {
		files, err := b.files("chart")
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range files {
			got, err := os.ReadFile(filepath.Join(b.name, name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s/%s: run `make manifests` (-chart +file):\n%s", b.name, name, diff)
			}
		}
		there, err := os.ReadDir(b.name)
		if err != nil || len(there) != len(files) {
			t.Errorf("%s has %v, want %v; %v", b.name, there, slices.Sorted(maps.Keys(files)), err)
		}
	}
}

// TestPrivilegesAreNamed guards who may do what in each directory.
func TestPrivilegesAreNamed(t *testing.T) {
	for _, tt := range []struct {
		base       string
		privileged int
		has        []string
		lacks      []string
	}{
		{"install", 1, []string{"hostPID: true", "Bidirectional", `"--nri=false"`, `"node", "install"`, `"node", "serve"`}, []string{`"node", "wait"`}},
		{"systemd-only", 0, []string{`"node", "install"`, `"node", "wait"`, "runAsNonRoot: true"}, []string{"hostPID", "Bidirectional"}},
		{"nri", 1, []string{`"--nri=true"`}, nil},
		{"uninstall", 0, []string{`"node", "remove"`, `"node", "wait"`}, []string{"hostPID", "Bidirectional", "install"}},
	} {
		text, err := os.ReadFile(filepath.Join(tt.base, "daemonset.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string // without comments
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(strings.TrimSpace(line), "#") {
				lines = append(lines, line)
			}
		}
		object := strings.Join(lines, "")
		if got := strings.Count(object, "privileged: true"); got != tt.privileged {
			t.Errorf("%s: %d privileged containers, want %d", tt.base, got, tt.privileged)
		}
		// Those that are not privileged have no capability at all.
		if drops, others := strings.Count(object, `drop: ["ALL"]`), strings.Count(object, "privileged: false"); drops != others || drops == 0 {
			t.Errorf("%s: %d containers are not privileged, %d drop all capabilities", tt.base, others, drops)
		}
		for _, s := range tt.has {
			if !strings.Contains(object, s) {
				t.Errorf("%s lacks %q", tt.base, s)
			}
		}
		for _, s := range append(tt.lacks, "hostNetwork", "hostIPC", "serviceAccountName") {
			if strings.Contains(object, s) {
				t.Errorf("%s has %q", tt.base, s)
			}
		}
	}
}

func TestAValueThatTheChartDoesNotHaveIsAnError(t *testing.T) {
	if _, err := render("chart/templates/daemonset.yaml", map[string]any{"image": "x"}); err == nil {
		t.Error("no error")
	}
	dir := t.TempDir()
	for _, text := range []string{"image: vprocfs\n", "image\n", "a: {\n"} {
		path := filepath.Join(dir, "values.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if v, err := readValues(path); err == nil {
			t.Errorf("%q: %v", text, v)
		}
	}
}
