// SPDX-License-Identifier: Apache-2.0

//go:build systemd && engines

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// boundFiles are the files that the guide binds.
var boundFiles = strings.Fields("uptime meminfo stat cpuinfo loadavg swaps diskstats slabinfo")

// TestEnginesDeclaredWays: the daemon attaches nothing by itself, and a container sees
// itself by what its engine was told, as the guide of runtimes says.
func TestEnginesDeclaredWays(t *testing.T) {
	startUnit(t)
	writeDropIn(t, unitName, "[Service]\nEnvironment=\"VPROCFS_OPTS=--attach none\"\n")
	systemctl(t, "restart", unitName)
	t.Cleanup(func() { systemctl(t, "start", unitName) })
	startDocker(t)
	installCDI(t, unitBinary, unitMount)
	const link = "/usr/local/bin/vprocfs-runc"
	if err := os.Symlink(unitBinary, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(link) })

	docker := func(options ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			args := append([]string{"run", "--rm", "--network", "none", "--memory", "64m"}, options...)
			return output(t, "docker", append(append(args, image), firstRead...)...)
		}
	}
	var mounts, entries, lines []string
	for _, f := range boundFiles {
		path := "proc/" + f
		mounts = append(mounts, "--mount", fmt.Sprintf("type=bind,source=%s/%s,target=/%[2]s,readonly", unitMount, path))
		entries = append(entries, fmt.Sprintf("lxc.mount.entry = %s/%s %[2]s none bind,ro 0 0\n", unitMount, path))
		lines = append(lines, fmt.Sprintf("%q,\n", fmt.Sprintf("type=bind,source=%s/%s,destination=/%[2]s,ro", unitMount, path)))
	}
	mounts = append(mounts, "--mount", "type=bind,source="+unitMount+cpuDir+",target="+cpuDir+",readonly")
	entries = append(entries, "lxc.mount.entry = "+unitMount+cpuDir+" "+cpuDir[1:]+" none bind,ro 0 0\n")
	lines = append(lines, fmt.Sprintf("%q,\n", "type=bind,source="+unitMount+cpuDir+",destination="+cpuDir+",ro"))

	for name, start := range map[string]func(t *testing.T) string{
		"docker --mount":      docker(mounts...),
		"docker CDI all":      docker("--device", "vprocfs.io/view=all"),
		"docker CDI mounts":   docker("--device", "vprocfs.io/view=mounts"),
		"docker wrapper":      docker("--runtime", "vprocfs"),
		"docker unconfigured": docker(),
		"lxc.mount.entry":     func(t *testing.T) string { return lxcReads(t, strings.Join(entries, ""))(0) },
		"lxc unconfigured":    func(t *testing.T) string { return lxcReads(t, "")(0) },
		"containers.conf":     func(t *testing.T) string { return podmanConfigured(t, strings.Join(lines, "")) },
		"podman unconfigured": func(t *testing.T) string { return podmanConfigured(t, "") },
	} {
		t.Run(name, func(t *testing.T) {
			want := !strings.Contains(name, "unconfigured")
			if text := start(t); ownMemory(t, text) != want {
				t.Errorf("it sees itself: %v\n%s", !want, text)
			}
		})
	}
}

// podmanConfigured runs a container of Podman whose containers.conf has these mounts.
func podmanConfigured(t *testing.T, mounts string) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "containers.conf")
	if err := os.WriteFile(config, []byte("[containers]\nmounts = [\n"+mounts+"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := newPodman(t).run(nil, nil, firstRead...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF_OVERRIDE="+config)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(failure(err))
	}
	return string(out)
}
