// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fixture is a host and an image.
type fixture struct {
	host, image string
	systemd     *fakeSystemd
	log         strings.Builder
}

const (
	daemonPath = "opt/vprocfs/bin/vprocfs"
	nriPath    = "opt/vprocfs/bin/vprocfs-nri"
)

func newFixture(t *testing.T) *fixture {
	t.Helper()
	// The path of a socket is short.
	host, err := os.MkdirTemp("", "node")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(host) })
	f := &fixture{host: host, image: t.TempDir()}
	for _, name := range []string{"vprocfs.service", "vprocfs-nri.service"} {
		source := "../../deploy/systemd/" + name
		if name == nriUnit {
			source = "../../deploy/nri/" + name
		}
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		write(t, f.image, "usr/lib/systemd/system/"+name, string(text))
	}
	f.release(t, "1")
	return f
}

// release makes the image one of another version.
func (f *fixture) release(t *testing.T, version string) {
	t.Helper()
	write(t, f.image, "usr/bin/vprocfs", "daemon "+version)
	write(t, f.image, "usr/bin/vprocfs-nri", "plugin "+version)
}

func (f *fixture) options() Options {
	return Options{Host: f.host, Image: f.image, Prefix: "/opt/vprocfs", Log: slog.New(slog.NewTextHandler(&f.log, nil))}
}

func (f *fixture) install(t *testing.T, o Options) {
	t.Helper()
	if err := Install(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// read returns the text of a file, "none" if there is none.
func read(t *testing.T, root, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if os.IsNotExist(err) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// want fails the test if systemd was called otherwise since the last time.
func (f *fixture) want(t *testing.T, calls ...string) {
	t.Helper()
	if diff := cmp.Diff(calls, f.systemd.took()); diff != "" {
		t.Errorf("calls of systemd (-want +got):\n%s", diff)
	}
}

func TestInstallMakesAServiceOfTheHost(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	f.install(t, f.options())
	f.want(t, "Reload", "EnableUnitFiles vprocfs.service", "StartUnit vprocfs.service")
	if got := read(t, f.host, daemonPath); got != "daemon 1" {
		t.Errorf("program %q", got)
	}
	fi, err := os.Stat(filepath.Join(f.host, daemonPath))
	if err != nil || fi.Mode() != 0o755 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	text := read(t, f.host, unitPath(unit))
	if !strings.HasPrefix(text, mark) || !strings.Contains(text, "\nExecStart=/opt/vprocfs/bin/vprocfs serve ") || strings.Contains(text, "/usr/bin/vprocfs") {
		t.Errorf("unit:\n%s", text)
	}
	if got := read(t, f.host, dropIn(unit)) + read(t, f.host, nriPath); got != "nonenone" {
		t.Errorf("flags or the plugin are installed: %s", got)
	}
	// A second time changes nothing.
	f.install(t, f.options())
	f.want(t, "EnableUnitFiles vprocfs.service")
}

func TestInstallUpgradesWithoutARestart(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	f.install(t, f.options())
	f.systemd.took()
	f.release(t, "2")
	f.install(t, f.options())
	f.want(t, "EnableUnitFiles vprocfs.service", "ReloadUnit vprocfs.service")
	if got := read(t, f.host, daemonPath); got != "daemon 2" {
		t.Errorf("program %q", got)
	}
	// A pod that was killed before it could reload: the next one does.
	f.release(t, "3")
	write(t, f.host, daemonPath, "daemon 3")
	f.install(t, f.options())
	f.want(t, "EnableUnitFiles vprocfs.service", "ReloadUnit vprocfs.service")
}

func TestInstallPutsTheOldVersionBackIfTheNewOneIsNoGood(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	f.install(t, f.options())
	f.release(t, "2")
	f.systemd.setResult("ReloadUnit vprocfs.service", "failed")
	err := Install(t.Context(), f.options())
	if err == nil || !strings.Contains(err.Error(), "ReloadUnit of vprocfs.service: failed") {
		t.Errorf("error %v", err)
	}
	if got := read(t, f.host, daemonPath); got != "daemon 1" {
		t.Errorf("program %q", got)
	}
	// The next attempt is one.
	f.systemd.took()
	f.install(t, f.options())
	f.want(t, "EnableUnitFiles vprocfs.service", "ReloadUnit vprocfs.service")
}

// TestAnInstallationThatIsStoppedIsDoneAgain: whether the upgrade that it asked for has
// happened, nobody knows.
func TestAnInstallationThatIsStoppedIsDoneAgain(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	f.install(t, f.options())
	f.systemd.took()
	f.release(t, "2")
	f.systemd.setResult("ReloadUnit vprocfs.service", "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !slices.Contains(f.systemd.took(), "ReloadUnit vprocfs.service") {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if err := Install(ctx, f.options()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := read(t, f.host, daemonPath); got != "daemon 1" {
		t.Errorf("program %q", got)
	}

	// The same, but it is killed: only the state says so.
	write(t, f.host, "opt/vprocfs/"+stateName, `{"daemon":""}`)
	f.release(t, "1")
	f.systemd.took()
	f.install(t, f.options())
	f.want(t, "EnableUnitFiles vprocfs.service", "ReloadUnit vprocfs.service")
}

func TestAnotherPrefixIsRefused(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	f.install(t, f.options())
	before := tree(t, f.host)
	f.systemd.took()
	o := f.options()
	o.Prefix = "/home/vprocfs"
	for name, do := range map[string]func(context.Context, Options) error{"install": Install, "remove": Remove} {
		if err := do(t.Context(), o); err == nil || !strings.Contains(err.Error(), "installed at /opt/vprocfs") {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.want(t)
	if diff := cmp.Diff(before, tree(t, f.host)); diff != "" {
		t.Errorf("the host (-before +after):\n%s", diff)
	}
}

func TestInstallLeavesNothingOfAFirstInstallationThatFails(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	f.systemd.setResult("StartUnit vprocfs.service", "dependency")
	if err := Install(t.Context(), f.options()); err == nil {
		t.Error("no error")
	}
	for _, path := range []string{daemonPath, unitPath(unit), "opt/vprocfs/" + stateName} {
		if got := read(t, f.host, path); got != "none" {
			t.Errorf("%s is left: %s", path, got)
		}
	}
	f.want(t, "Reload", "EnableUnitFiles vprocfs.service", "StartUnit vprocfs.service",
		"StopUnit vprocfs.service", "DisableUnitFiles vprocfs.service", "Reload")
}

func TestInstallRestartsForOtherFlags(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	f.install(t, f.options())
	f.systemd.took()
	o := f.options()
	o.Flags = "--cpu-view cpuset --attach-not-cgroup /a/*"
	f.install(t, o)
	f.want(t, "Reload", "EnableUnitFiles vprocfs.service", "RestartUnit vprocfs.service")
	if got := read(t, f.host, dropIn(unit)); got != mark+"[Service]\nEnvironment=\"VPROCFS_OPTS=--cpu-view cpuset --attach-not-cgroup /a/*\"\n" {
		t.Errorf("drop-in %q", got)
	}
	// A daemon that ends for its flags is started again with the old ones.
	o.Flags = "--no-such-flag"
	f.systemd.took()
	f.systemd.setResult("RestartUnit vprocfs.service", "failed")
	f.systemd.setInactive(unit)
	f.systemd.setResult("StartUnit vprocfs.service", "failed") // the unit is not active
	if err := Install(t.Context(), o); err == nil {
		t.Error("no error")
	}
	f.want(t, "Reload", "EnableUnitFiles vprocfs.service", "StartUnit vprocfs.service", "Reload", "StartUnit vprocfs.service")
	if got := read(t, f.host, dropIn(unit)); !strings.Contains(got, "--cpu-view cpuset") {
		t.Errorf("drop-in %q", got)
	}
}

func TestInstallOfThePluginAndItsRemoval(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	o := f.options()
	o.NRI = true
	f.install(t, o)
	f.want(t, "Reload", "EnableUnitFiles vprocfs.service vprocfs-nri.service", "StartUnit vprocfs.service", "RestartUnit vprocfs-nri.service")
	if text := read(t, f.host, unitPath(nriUnit)); !strings.Contains(text, "\nExecStart=/opt/vprocfs/bin/vprocfs-nri ") {
		t.Errorf("unit:\n%s", text)
	}
	f.install(t, o)
	f.want(t, "EnableUnitFiles vprocfs.service vprocfs-nri.service", "StartUnit vprocfs-nri.service")
	f.install(t, f.options())
	f.want(t, "EnableUnitFiles vprocfs.service", "StopUnit vprocfs-nri.service", "CleanUnit vprocfs-nri.service",
		"DisableUnitFiles vprocfs-nri.service", "Reload", "ResetFailedUnit vprocfs-nri.service")
	if got := read(t, f.host, nriPath) + read(t, f.host, unitPath(nriUnit)); got != "nonenone" {
		t.Errorf("left: %s", got)
	}
}

func TestRemoveLeavesTheHostAsItWas(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	write(t, f.host, "etc/systemd/system/other.service", "other")
	write(t, f.host, "var/lib/other/file", "other")
	write(t, f.host, "opt/other/file", "other")
	before := tree(t, f.host)
	if err := Remove(t.Context(), f.options()); err != nil {
		t.Fatal(err)
	}
	f.want(t)
	o := f.options()
	o.NRI, o.Flags = true, "--swap off"
	f.install(t, o)
	if err := os.Mkdir(filepath.Join(f.host, mountPoint), 0o755); err != nil { // by the unit
		t.Fatal(err)
	}
	f.systemd.took()
	if err := Remove(t.Context(), f.options()); err != nil {
		t.Fatal(err)
	}
	var calls []string
	for _, u := range []string{nriUnit, unit} {
		calls = append(calls, "StopUnit "+u, "CleanUnit "+u, "DisableUnitFiles "+u, "Reload", "ResetFailedUnit "+u)
	}
	f.want(t, calls...)
	if diff := cmp.Diff(before, tree(t, f.host)); diff != "" {
		t.Errorf("the host (-before +after):\n%s", diff)
	}
}

// tree returns the paths of all files and directories.
func tree(t *testing.T, root string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestAServiceThatNoPodHasInstalledIsLeftAlone(t *testing.T) {
	for _, path := range []string{"etc/systemd/system/vprocfs.service", "usr/lib/systemd/system/vprocfs.service"} {
		t.Run(path, func(t *testing.T) {
			f := newFixture(t)
			f.systemd = startSystemd(t, f.host)
			write(t, f.host, path, "[Unit]\n")
			before := tree(t, f.host)
			f.install(t, f.options())
			if err := Remove(t.Context(), f.options()); err != nil {
				t.Error(err)
			}
			f.want(t)
			if diff := cmp.Diff(before, tree(t, f.host)); diff != "" {
				t.Errorf("the host (-before +after):\n%s", diff)
			}
			if !strings.Contains(f.log.String(), "it is left alone") {
				t.Errorf("log: %s", &f.log)
			}
		})
	}
}

func TestAHostWithoutSystemdIsNotChanged(t *testing.T) {
	f := newFixture(t)
	before := tree(t, f.host)
	f.install(t, f.options())
	if err := Remove(t.Context(), f.options()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, tree(t, f.host)); diff != "" {
		t.Errorf("the host (-before +after):\n%s", diff)
	}
	if !strings.Contains(f.log.String(), "the host has no systemd") {
		t.Errorf("log: %s", &f.log)
	}
}

// TestALinkOfTheHostLeadsNowhereElse: /etc of the host may be a link that means another
// directory within the pod.
func TestALinkOfTheHostLeadsNowhereElse(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(f.host, "opt")); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), f.options()); err == nil {
		t.Error("no error")
	}
	if left := tree(t, outside); len(left) != 1 {
		t.Errorf("outside of the host: %s", left)
	}
}

func TestOptionsThatAUnitWouldReadOtherwiseAreRefused(t *testing.T) {
	f := newFixture(t)
	for i, change := range []func(*Options){
		func(o *Options) { o.Flags = "--a\nExecStart=b" },
		func(o *Options) { o.Flags = `--a "b"` },
		func(o *Options) { o.Flags = "--a %n" },
		func(o *Options) { o.Prefix = "opt/vprocfs" },
		func(o *Options) { o.Prefix = "/opt/a b" },
		func(o *Options) { o.Prefix = "/opt/../etc/systemd" },
		func(o *Options) { o.Prefix = "/opt" },
	} {
		o := f.options()
		change(&o)
		for name, do := range map[string]func(context.Context, Options) error{"install": Install, "remove": Remove} {
			if err := do(t.Context(), o); err == nil {
				t.Errorf("%s %d: no error", name, i)
			}
		}
	}
}

func TestASystemdThatDoesNotAnswerIsAnError(t *testing.T) {
	f := newFixture(t)
	f.systemd = startSystemd(t, f.host)
	if err := os.Remove(filepath.Join(f.host, "run/systemd/private")); err != nil {
		t.Fatal(err)
	}
	before := tree(t, f.host)
	err := Install(t.Context(), f.options())
	if want := "connect to systemd: "; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, tree(t, f.host)); diff != "" {
		t.Errorf("the host (-before +after):\n%s", diff)
	}
}
