// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vprocfs/internal/control"
)

func listenerEdit(flags ...string) func(object) error {
	return func(o object) error {
		removed := o.removeListener()
		err := o.addListener("/run/s", &seccompFeatures{Flags: flags})
		if errors.Is(err, errUnchanged) {
			return removed
		}
		return err
	}
}

func TestListenerComesFirst(t *testing.T) {
	const config = `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","future":1,"flags":["F"],"syscalls":[
		{"names":["read","sysinfo","sched_getaffinity"],"action":"SCMP_ACT_ALLOW","comment":"c"},
		{"names":["sched_setaffinity"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]}]}}}`
	const want = `{"annotations":{"vprocfs.io/syscalls":"added"},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","future":1,
		"flags":["F","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"listenerPath":"/run/s","syscalls":[
		{"names":["sysinfo","sched_getaffinity"],"action":"SCMP_ACT_NOTIFY"},
		{"names":["read","sysinfo","sched_getaffinity"],"action":"SCMP_ACT_ALLOW","comment":"c"},
		{"names":["sched_setaffinity"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]}]}}}`
	once, err := edited([]byte(config), listenerEdit(flagWaitKillable))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(parsed(t, want), parsed(t, string(once))); d != "" {
		t.Error(d)
	}
	twice, err := edited(once, listenerEdit(flagWaitKillable))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(parsed(t, want), parsed(t, string(twice))); d != "" {
		t.Errorf("a second time: %s", d)
	}
	without, err := edited([]byte(strings.ReplaceAll(config, `,"flags":["F"]`, "")), listenerEdit())
	if err != nil || strings.Contains(string(without), "flags") {
		t.Errorf("a runtime that knows no flags: %v %s", err, without)
	}
}

func TestContainerWithoutAPolicyGetsOne(t *testing.T) {
	for _, config := range []string{`{"linux":{"seccomp":null}}`, `{"linux":{}}`, `{}`} {
		got, err := edited([]byte(config), listenerEdit())
		if err != nil || !strings.Contains(string(got), `"defaultAction":"SCMP_ACT_ALLOW"`) || !strings.Contains(string(got), `"vprocfs.io/syscalls":"made"`) {
			t.Errorf("%s: %v %s", config, err, got)
		}
		back, err := edited(got, object.removeListener)
		if err != nil || strings.Contains(string(back), "seccomp") {
			t.Errorf("%s: %v %s", config, err, back)
		}
	}
}

func TestListenerIsNotForEveryContainer(t *testing.T) {
	for name, config := range map[string]string{
		"one of its own":   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/other"}}}`,
		"view off":         `{"annotations":{"vprocfs.io/view":"off"}}`,
		"calls forbidden":  `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}`,
		"calls restricted": `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sysinfo","sched_getaffinity","sched_setaffinity"],"action":"SCMP_ACT_ERRNO"}]}}}`,
		"two rules":        `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["sysinfo"],"action":"SCMP_ACT_KILL"},{"names":["sysinfo"],"action":"SCMP_ACT_ALLOW"}]}}}`,
	} {
		if got, err := edited([]byte(config), listenerEdit()); err != nil || string(got) != config {
			t.Errorf("%s: %v %s", name, err, got)
		}
	}
}

func TestListenerIsOnlyForARuntimeAndASocketThatAreThere(t *testing.T) {
	bundle, dir := t.TempDir(), t.TempDir()
	name := filepath.Join(bundle, "config.json")
	if err := os.WriteFile(name, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const features = `{"linux":{"seccomp":{"actions":["SCMP_ACT_NOTIFY"],"supportedFlags":[]}}}`
	c := splitCommandLine([]string{"create", "--bundle", bundle, "id"})
	has := func(runtime string, wantErr bool) bool {
		t.Helper()
		if err := addListener(context.Background(), runtime, c, dir); (err != nil) != wantErr {
			t.Fatal(err)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "listenerPath")
	}
	real := fakeRuntime(t, features, 0)
	if has(real, false) {
		t.Error("nobody listens")
	}
	socket := control.SeccompPath(dir)
	if err := control.MakeDir(filepath.Dir(socket)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !has(real, false) {
		t.Error("a daemon and a runtime that can")
	}
	if has(fakeRuntime(t, `{"linux":{"seccomp":{"actions":["SCMP_ACT_ALLOW"]}}}`, 0), true) {
		t.Error("a runtime that cannot")
	}
	if !has(real, false) {
		t.Error("again")
	}
	l.Close()
	if has(real, false) {
		t.Error("nobody listens any more, and the container would not start")
	}
}

// FuzzListenerInAConfig adds a listener to any config, twice, which must be once.
func FuzzListenerInAConfig(f *testing.F) {
	for _, s := range []string{
		aConfig, "{}", `{"linux":null,"annotations":null}`, `{"linux":{"seccomp":null}}`, `{"annotations":{"vprocfs.io/syscalls":"added"}}`,
		`{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","flags":null,"syscalls":[{"names":["sysinfo"],"action":"SCMP_ACT_ALLOW"},null]}}}`,
		`{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[7]}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		once, err := edited(config, listenerEdit())
		if err != nil {
			return
		}
		if twice, err := edited(once, listenerEdit()); err != nil || string(twice) != string(once) {
			t.Errorf("%q: %v, %q", once, err, twice)
		}
	})
}
