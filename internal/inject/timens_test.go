// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// timensEdit is the edit that adds a time namespace at a time of both clocks.
func timensEdit(boot, monotonic time.Duration, proc string) func(object) error {
	return func(o object) error {
		return o.addTimeNamespace(func() (time.Duration, time.Duration, error) { return boot, monotonic, nil }, proc)
	}
}

// parsed is a JSON text as Go values, for comparison.
func parsed(t testing.TB, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func TestTimeNamespaceBeginsWithTheContainer(t *testing.T) {
	const config = `{"annotations":{"a":"b"},"linux":{"namespaces":[{"type":"mount"},{"type":"pid","future":1}],"cgroupsPath":"/c"}}`
	const want = `{"annotations":{"a":"b","vprocfs.io/time-offsets":"vprocfs"},"linux":{"cgroupsPath":"/c",
		"namespaces":[{"type":"mount"},{"type":"pid","future":1},{"type":"time"}],
		"timeOffsets":{"boottime":{"secs":-1001,"nanosecs":0},"monotonic":{"secs":-900,"nanosecs":0}}}}`
	once, err := edited([]byte(config), timensEdit(1001_900*time.Millisecond, 900*time.Second, "/proc"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(parsed(t, want), parsed(t, string(once))); d != "" {
		t.Error(d)
	}
	// An engine that starts the same bundle again wants the clocks to begin again.
	twice, err := edited(once, timensEdit(2001*time.Second, 1900*time.Second, "/proc"))
	if err != nil {
		t.Fatal(err)
	}
	again := strings.NewReplacer("-1001", "-2001", "-900", "-1900").Replace(want)
	if d := cmp.Diff(parsed(t, again), parsed(t, string(twice))); d != "" {
		t.Errorf("a second time: %s", d)
	}
}

func TestTimeNamespaceIsNotForEveryContainer(t *testing.T) {
	for name, config := range map[string]string{
		"pid namespace of the host":         `{"linux":{"namespaces":[{"type":"mount"}]}}`,
		"no namespaces":                     `{}`,
		"a time namespace of the user":      `{"linux":{"namespaces":[{"type":"pid"},{"type":"time"}],"timeOffsets":{"boottime":{"secs":7}}}}`,
		"offsets of the user":               `{"linux":{"namespaces":[{"type":"pid"}],"timeOffsets":{}}}`,
		"no view":                           `{"annotations":{"vprocfs.io/view":"off"},"linux":{"namespaces":[{"type":"pid"}]}}`,
		"a pid namespace of unknown origin": `{"linux":{"namespaces":[{"type":"pid","path":"/run/ns/pid"}]}}`,
		"a pid namespace without process":   `{"linux":{"namespaces":[{"type":"pid","path":"/proc/999999999/ns/pid"}]}}`,
		"the time namespace of the host":    `{"linux":{"namespaces":[{"type":"pid","path":"/proc/` + fmt.Sprint(os.Getpid()) + `/ns/pid"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := edited([]byte(config), timensEdit(time.Hour, time.Hour, "/proc"))
			if err != nil || string(got) != config {
				t.Errorf("%v, %s", err, got)
			}
		})
	}
}

func TestASharedPidNamespaceBringsItsTimeNamespace(t *testing.T) {
	proc := t.TempDir()
	for pid, target := range map[string]string{"self": "time:[1]", "17": "time:[2]"} {
		if err := os.MkdirAll(filepath.Join(proc, pid, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(proc, pid, "ns/time")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := edited([]byte(`{"linux":{"namespaces":[{"type":"pid","path":"/proc/17/ns/pid"}]}}`), timensEdit(time.Hour, time.Hour, proc))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"linux":{"namespaces":[{"type":"pid","path":"/proc/17/ns/pid"},{"type":"time","path":"/proc/17/ns/time"}]}}`
	if d := cmp.Diff(parsed(t, want), parsed(t, string(got))); d != "" {
		t.Error(d)
	}
}

func TestARuntimeWithoutTimeNamespacesGetsNone(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.json")
	const plain = `{"linux":{"namespaces":[{"type":"pid"}]}}`
	if err := os.WriteFile(config, []byte(plain), 0o600); err != nil {
		t.Fatal(err)
	}
	c := commandLine{args: []string{"--bundle", filepath.Dir(config), "c1"}}
	if err := addTimeNamespace(context.Background(), fakeRuntime(t, `{"linux":{"namespaces":["time"]}}`, 0), c); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(config); err != nil || !strings.Contains(string(text), `{"type":"time"}`) {
		t.Errorf("%v, %s", err, text)
	}
	// The bundle then goes to another runtime.
	if err := addTimeNamespace(context.Background(), fakeRuntime(t, "{}", 0), c); err == nil || !strings.Contains(err.Error(), "/runc has no time namespaces") {
		t.Errorf("%v", err)
	}
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(parsed(t, `{"annotations":{},"linux":{"namespaces":[{"type":"pid"}]}}`), parsed(t, string(text))); d != "" {
		t.Error(d)
	}
}

// fakeRuntime makes a runtime that prints text for `features`.
func fakeRuntime(t *testing.T, text string, status int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "runc")
	script := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = features ] || exit 9\ncat <<'EOF'\n%s\nEOF\nexit %d\n", text, status)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRuntimesWithoutTimeNamespacesAreFoundOut(t *testing.T) {
	for _, tt := range []struct {
		text   string
		status int
		ok     bool
	}{
		{`{"linux":{"namespaces":["pid","time"]}}`, 0, true},
		{`{"linux":{"namespaces":["pid","time"]}}`, 1, false},
		{`{"linux":{"namespaces":["pid"]}}`, 0, false},
		{`{}`, 0, false},
		{`{"annotations":{"run.oci.crun.version":"1.21"}}`, 0, true},
		{`{"annotations":{"run.oci.crun.version":"2.0.1"}}`, 0, true},
		{`{"annotations":{"run.oci.crun.version":"1.20.9"}}`, 0, false},
		{`{"annotations":{"run.oci.crun.version":"new"}}`, 0, false},
		{`unknown command features`, 0, false},
	} {
		err := timeNamespaces(context.Background(), fakeRuntime(t, tt.text, tt.status))
		if (err == nil) != tt.ok {
			t.Errorf("%s, status %d: %v", tt.text, tt.status, err)
		}
	}
}

func TestTheSameWarningIsGivenOnce(t *testing.T) {
	dir := t.TempDir()
	for i, tt := range []struct {
		text  string
		first bool
	}{{"a", true}, {"a", false}, {"b", true}, {"b", false}} {
		if got := firstTimeIn(dir, errors.New(tt.text)); got != tt.first {
			t.Errorf("%d: %v", i, got)
		}
	}
	if !firstTimeIn(dir+"/none", errors.New("a")) {
		t.Error("nowhere to remember it, no warning")
	}
}

func FuzzTimeNamespaceInAConfig(f *testing.F) {
	for _, s := range []string{
		aConfig, "{}", `{"linux":null,"annotations":null}`, `{"linux":{"namespaces":[{"type":"pid"},7,null]}}`,
		`{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		once, err := edited(config, timensEdit(time.Hour, time.Hour, "/proc"))
		if err != nil {
			return
		}
		if twice, err := edited(once, timensEdit(time.Hour, time.Hour, "/proc")); err != nil || string(twice) != string(once) {
			t.Errorf("%q: %v, %q", once, err, twice)
		}
	})
}
