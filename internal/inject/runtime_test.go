// SPDX-License-Identifier: Apache-2.0

package inject

import (
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
