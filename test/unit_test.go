// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const unit = "../deploy/systemd/vprocfs.service"

// TestUnitIsHardened asks systemd what it thinks of the units: from 0, which is
// locked up, to 10.
func TestUnitIsHardened(t *testing.T) {
	need(t, "systemd-analyze", "systemd")
	for path, most := range map[string]float64{unit: 5, filepath.Join(filepath.Dir(unit), "vprocfs-export.service"): 1.5} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", path).CombinedOutput()
		m := regexp.MustCompile(`Overall exposure level for vprocfs[a-z-]*\.service: ([0-9.]+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > most {
			t.Errorf("%s: exposure level %s, want at most %v", path, m[1], most)
		}
	}
}

// TestUnitMakesNoMountNamespace: with any of these settings the daemon's mount
// would not reach the host (systemd.exec(5)).
func TestUnitMakesNoMountNamespace(t *testing.T) {
	for line := range strings.Lines(readFile(t, unit)) {
		key, _, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		switch key {
		case "ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
			"ProtectControlGroups", "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateUsers", "MountFlags", "MountAPIVFS", "DynamicUser",
			"ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths", "BindReadOnlyPaths",
			"TemporaryFileSystem", "RootDirectory", "RootImage", "LogNamespace", "PrivateIPC", "PrivateNetwork":
			t.Errorf("%s makes a mount namespace", key)
		}
	}
}
