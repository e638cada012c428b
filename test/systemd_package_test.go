// SPDX-License-Identifier: Apache-2.0

//go:build systemd

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// dpkg runs it, and fails the test if it fails.
func dpkg(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("dpkg", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, journal(t, unitName))
	}
}

// forgetUnit removes what startUnit has installed. The next startUnit installs it again.
func forgetUnit(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(unitDir, unitName)); err != nil {
		return
	}
	systemctl(t, "disable", "--now", unitName)
	systemctl(t, "clean", "--what=fdstore", unitName)
	// The stop has unmounted it, unless that failed.
	if err := unix.Unmount(unitMount, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		t.Error(err)
	}
	for _, path := range []string{unitBinary, filepath.Join(unitDir, unitName), filepath.Join(unitDir, unitName+".d"), unitMount} {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
	systemctl(t, "daemon-reload")
}

// TestSystemdPackageInstallsUpgradesAndGoes: once it is installed every container sees
// itself, those that run and those that start, whose programs see it from their first
// read; and one has the files all the time.
func TestSystemdPackageInstallsUpgradesAndGoes(t *testing.T) {
	forgetUnit(t)
	packages, err := filepath.Glob("../build/packages/vprocfs_*.deb")
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages %q, %v", packages, err)
	}
	runs := runtimeContainer(t, "runc", "")
	wantHost(t, runs)
	now := since()
	dpkg(t, "--install", packages[0])
	if state := property(unitName, "ActiveState"); state != "active" {
		t.Fatalf("after the installation the unit is %s\n%s", state, journal(t, unitName))
	}
	if enabled := property(unitName, "UnitFileState"); enabled != "enabled" {
		t.Errorf("the unit is %s", enabled)
	}
	waitForView(t, runs)
	wantView(t, runs)
	// The sandbox of the unit allows the best source.
	if log := journal(t, unitName, now); !strings.Contains(log, "watching for containers that start") || !strings.Contains(log, "kretprobe of") {
		t.Errorf("log:\n%s", log)
	}
	for _, runtime := range ociRuntimes {
		start := twoSteps(t, runtime)
		for range 3 {
			if !ownMemory(t, start()) {
				t.Errorf("%s: a program saw the host", runtime)
			}
		}
	}
	c := plainContainer(t, "") // none that the watch takes for one
	wantAttached(t, unitMount, c, "attached")
	wantView(t, c)

	// An upgrade is seen by no reader.
	holder, worker := holderOf(t, unitName), workerOfUnit(t, unitName)
	c.sh(t, "(while :; do cat /proc/uptime || echo failed; done) >/tmp/reads 2>&1 & echo $! >/tmp/reader")
	dpkg(t, "--install", packages[0])
	if now := holderOf(t, unitName); now != holder {
		t.Errorf("holder %d, was %d", now, holder)
	}
	waitFor(t, "another worker", func() bool { return workerOfUnit(t, unitName) != worker })
	out := c.sh(t, "kill $(cat /tmp/reader); wc -l </tmp/reads; grep -c -v '^[0-9.]* [0-9.]*$' /tmp/reads")
	if f := strings.Fields(out); len(f) != 2 || f[0] == "0" || f[1] != "0" {
		t.Errorf("reads, and of them errors, over an upgrade: %q", out)
	}

	dpkg(t, "--remove", "vprocfs")
	wantHost(t, c)
	wantHost(t, runs)
	if mounts := mountsOf(t, c); strings.Contains(mounts, "fuse.") {
		t.Errorf("left in the container:\n%s", mounts)
	}
	dpkg(t, "--purge", "vprocfs")
	for _, pattern := range []string{unitMount, "/etc/default/vprocfs", "/usr/bin/vprocfs*", "/usr/share/vprocfs", "/usr/share/doc/vprocfs", "/usr/lib/systemd/system/vprocfs*", "/etc/systemd/system/*/vprocfs*", "/run/vprocfs/*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("a purge leaves %s", left)
		}
	}
	if mounts := readFile(t, "/proc/self/mountinfo"); strings.Contains(mounts, "fuse.vprocfs") {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}
