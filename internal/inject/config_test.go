// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const aConfig = `{"ociVersion":"1.2.0","hooks":{"createRuntime":[{"path":"/bin/other","timeout":5}],"poststop":[{"path":"/x"}]},"linux":{"future":[1.0,9007199254740993]},"root":{"path":"rootfs"}}`

// hookEdit is the edit that adds a hook.
func hookEdit(path string, args ...string) func(object) error {
	return func(o object) error { return o.addHook(path, args) }
}

func TestOnlyTheHookIsAddedToAConfig(t *testing.T) {
	once, err := edited([]byte(aConfig), hookEdit("/usr/bin/vprocfs", "vprocfs", "hook"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(aConfig, `"timeout":5}`, `"timeout":5},{"path":"/usr/bin/vprocfs","args":["vprocfs","hook"]}`, 1)
	var a, b map[string]json.RawMessage
	if json.Unmarshal(once, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
		t.Fatalf("%s", once)
	}
	for key := range b {
		if !sameJSON(a[key], b[key]) {
			t.Errorf("%s: %s, want %s", key, a[key], b[key])
		}
	}
	if len(a) != len(b) {
		t.Errorf("%s", once)
	}
	twice, err := edited(once, hookEdit("/usr/bin/vprocfs", "vprocfs", "hook"))
	if err != nil || string(twice) != string(once) {
		t.Errorf("a second time: %v\n%s", err, twice)
	}
}

func TestAConfigThatIsNoneStaysAsItIs(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "[]", "null", `{"hooks":7}`, `{"hooks":{"createRuntime":{}}}`, "{"} {
		name := filepath.Join(dir, "config.json")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := addHook(commandLine{args: []string{"-b", dir, "c1"}}, RuntimeOptions{Hook: "/h"}); err == nil {
			t.Errorf("%q: no error", text)
		}
		if now, err := os.ReadFile(name); err != nil || string(now) != text {
			t.Errorf("%q has become %q, %v", text, now, err)
		}
	}
	if err := addHook(commandLine{args: []string{"-b", dir + "/none", "c1"}}, RuntimeOptions{Hook: "/h"}); err == nil {
		t.Error("no bundle, no error")
	}
}

func TestAChangedConfigKeepsItsMode(t *testing.T) {
	name := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(name, []byte(aConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := addHook(commandLine{args: []string{"--bundle=" + filepath.Dir(name), "c1"}}, RuntimeOptions{Hook: "/h", Dir: "/m"}); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(name)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}

func FuzzHookInAConfig(f *testing.F) {
	for _, s := range []string{aConfig, "{}", `{"hooks":null}`, `{"hooks":{"createRuntime":null}}`, `{"a":1e999}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		once, err := edited(config, hookEdit("/h", "h"))
		if err != nil {
			return
		}
		if twice, err := edited(once, hookEdit("/h", "h")); err != nil || string(twice) != string(once) {
			t.Errorf("%q: %v, %q", once, err, twice)
		}
	})
}
