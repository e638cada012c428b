// SPDX-License-Identifier: Apache-2.0

//go:build systemd

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// guideSteps returns the commands of a section of a guide, the lines that are indented
// as code.
func guideSteps(t *testing.T, guide, title string) string {
	t.Helper()
	_, section, found := strings.Cut(readFile(t, "../docs/"+guide), "\n## "+title+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var steps strings.Builder
	for line := range strings.Lines(section) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			steps.WriteString(code)
		}
	}
	if !found || steps.Len() == 0 {
		t.Fatalf("no steps in %q", title)
	}
	return steps.String()
}

// TestSystemdStepsInPlaceOfLXCFS takes the guide's steps on a host where LXCFS runs,
// word for word, under a container that has its files.
func TestSystemdStepsInPlaceOfLXCFS(t *testing.T) {
	const lxcfs, mount = "lxcfs.service", "/var/lib/lxcfs"
	systemctl(t, "start", lxcfs)
	t.Cleanup(func() { exec.Command("systemctl", "stop", lxcfs).Run() })
	waitFor(t, "LXCFS", func() bool { return deviceAt(t, mount) != "" })
	c := plainContainer(t, "")
	c.sh(t, "mount --bind "+mount+"/proc/uptime /proc/uptime && mount --bind "+mount+"/proc/meminfo /proc/meminfo")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "build"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.Getenv(binaryEnv), filepath.Join(dir, "build/vprocfs")); err != nil {
		t.Fatal(err)
	}
	steps := exec.Command("bash", "-exc", guideSteps(t, "replacing-lxcfs.md", "To replace LXCFS"))
	steps.Dir = dir
	out, err := steps.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, journal(t, lxcfs))
	}
	holder := holderOf(t, lxcfs)
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(holder) + "/exe"); err != nil || exe != "/usr/local/bin/vprocfs" {
		t.Errorf("the unit runs %s, %v", exe, err)
	}
	if got := memTotal(t, c.sh(t, "busybox cat /proc/meminfo")); got != 64 {
		t.Errorf("MemTotal %d MiB, want 64\n%s", got, out)
	}

	// From here on nobody notices.
	r, progress := survivorIn(t, mount)
	for name, do := range map[string]func(){
		"restart":       func() { systemctl(t, "restart", lxcfs) },
		"holder killed": func() { unix.Kill(holderOf(t, lxcfs), unix.SIGKILL) },
		"worker killed": func() { unix.Kill(workerOfUnit(t, lxcfs), unix.SIGKILL) },
		"reload":        func() { systemctl(t, "reload", lxcfs) },
	} {
		t.Run(name, func(t *testing.T) {
			wantReads(t, progress)
			worker := workerOfUnit(t, lxcfs)
			do()
			waitFor(t, "another worker", func() bool { return holderOf(t, lxcfs) > 0 && workerOfUnit(t, lxcfs) != worker })
			wantReads(t, progress)
			if got := memTotal(t, c.sh(t, "busybox cat /proc/meminfo")); got != 64 {
				t.Errorf("MemTotal %d MiB, want 64", got)
			}
			checkUptime(t, mount)
		})
	}
	endSurvivor(t, r)

	if out, err := exec.Command("bash", "-exc", guideSteps(t, "replacing-lxcfs.md", "To go back")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantHost(t, c)
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(holderOf(t, lxcfs)) + "/exe"); err != nil || exe != "/usr/bin/lxcfs" {
		t.Errorf("the unit runs %s, %v", exe, err)
	}
	checkUptime(t, mount)
}
