package inject

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheCommandOfARuntimeIsFound(t *testing.T) {
	for line, want := range map[string]commandLine{
		"":                         {},
		"--version":                {global: []string{"--version"}},
		"start c1":                 {name: "start", args: []string{"c1"}},
		"--root /r --log /l start": {global: []string{"--root", "/r", "--log", "/l"}, name: "start"},
		"--root=/r --systemd-cgroup create --bundle /b start":   {global: []string{"--root=/r", "--systemd-cgroup"}, name: "create", args: []string{"--bundle", "/b", "start"}},
		"--log-format json --debug --rootless auto start --x y": {global: []string{"--log-format", "json", "--debug", "--rootless", "auto"}, name: "start", args: []string{"--x", "y"}},
		"--cgroup-manager systemd --criu /c run -b /b c1":       {global: []string{"--cgroup-manager", "systemd", "--criu", "/c"}, name: "run", args: []string{"-b", "/b", "c1"}},
		"--root":       {global: []string{"--root"}},
		"--root start": {global: []string{"--root", "start"}},
		"--root /run/docker --log /l.json --log-format json --systemd-cgroup x": {global: []string{"--root", "/run/docker", "--log", "/l.json", "--log-format", "json", "--systemd-cgroup"}, name: "x"},
	} {
		got := splitCommandLine(strings.Fields(line))
		for _, c := range []*commandLine{&got, &want} { // empty and nil are alike
			c.global, c.args = append([]string{}, c.global...), append([]string{}, c.args...)
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(commandLine{})); d != "" {
			t.Errorf("%q: %s", line, d)
		}
	}
}

func TestIDAndBundleOfACommand(t *testing.T) {
	for line, want := range map[string][2]string{
		"start c1": {"c1", ""}, "start": {"", ""}, "start --help": {"", ""},
		"run --bundle /b c1": {"c1", "/b"}, "run -b /b c1": {"c1", "/b"}, "run -bundle=/b c1": {"c1", "/b"}, "run --bundle=/b --detach c1": {"c1", "/b"}, "run --bundle": {"", ""},
	} {
		c := splitCommandLine(strings.Fields(line))
		if id, bundle := c.id(), c.option("bundle", "b"); id != want[0] || bundle != want[1] {
			t.Errorf("%q: id %q, bundle %q", line, id, bundle)
		}
	}
}

func TestStateIsNotAskedIntoTheContainersLog(t *testing.T) {
	got := withoutLog(strings.Fields("--root /r --log /l --log-format json --log=/x --debug"))
	if d := cmp.Diff(strings.Fields("--root /r --log-format json --debug"), got); d != "" {
		t.Error(d)
	}
}

const aConfig = `{"ociVersion":"1.2.0","hooks":{"createRuntime":[{"path":"/bin/other","timeout":5}],"poststop":[{"path":"/x"}]},"linux":{"future":[1.0,9007199254740993]},"root":{"path":"rootfs"}}`

func TestOnlyTheHookIsAddedToAConfig(t *testing.T) {
	once, err := withHook([]byte(aConfig), "/usr/bin/vprocfs", []string{"vprocfs", "hook"})
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
	twice, err := withHook(once, "/usr/bin/vprocfs", []string{"vprocfs", "hook"})
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

func FuzzWithHook(f *testing.F) {
	for _, s := range []string{aConfig, "{}", `{"hooks":null}`, `{"hooks":{"createRuntime":null}}`, `{"a":1e999}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		once, err := withHook(config, "/h", []string{"h"})
		if err != nil {
			return
		}
		if twice, err := withHook(once, "/h", []string{"h"}); err != nil || string(twice) != string(once) {
			t.Errorf("%q: %v, %q", once, err, twice)
		}
	})
}

func TestARuntimeIsNeverTheWrapperItself(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Runtimes {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	if path, err := findRuntime(""); err == nil || !strings.Contains(err.Error(), "neither runc nor crun") {
		t.Errorf("%q, %v", path, err)
	}
	if path, err := findRuntime("/bin/sh"); err != nil || path != "/bin/sh" {
		t.Errorf("%q, %v", path, err)
	}
}

func TestRootfsOfABundle(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		`{"root":{"path":"rootfs"}}`: dir + "/rootfs", `{"root":{"path":"/abs/olute"}}`: "/abs/olute", `{"root":{}}`: "", `{}`: "", `[`: "",
	} {
		if err := os.WriteFile(dir+"/config.json", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := rootfs(dir); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}
