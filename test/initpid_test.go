// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kernelIs tells whether the kernel is major.minor or newer, by its release.
func kernelIs(t testing.TB, major, minor int) bool {
	t.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a > major || a == major && b >= minor
}

// TestTheInitIsFoundInEveryWayThatTheKernelHas has the daemon use each way, or
// refuse it with the reason. That a kernel has the ioctl is told by its release,
// so that a probe that fails to find it fails the test. (Which way auto takes is
// initpid's to test.)
func TestTheInitIsFoundInEveryWayThatTheKernelHas(t *testing.T) {
	hasIoctl := kernelIs(t, 6, 11)
	for _, flag := range []string{"fork", "ioctl", "auto"} {
		t.Run(flag, func(t *testing.T) {
			dir := t.TempDir()
			if flag == "ioctl" && !hasIoctl {
				_, stderr, status := vprocfs(t, "serve", "--init-pid", flag, dir)
				if status != 1 || !strings.Contains(stderr, "needs Linux 6.11 or newer") || strings.Count(stderr, "\n") != 1 {
					t.Errorf("exit status %d: %s", status, stderr)
				}
				return
			}
			d := startDaemon(t, dir, nil, "serve", "--init-pid", flag, dir)
			d.line(t)
			for i := range 2 { // the second is not found in a cache
				c := startContainer(t, "--mount", dir, "--memory", fmt.Sprintf("%dM", 100+i))
				if got := memTotal(t, c.sh(t, "cat /proc/meminfo")); got != 100+i {
					t.Errorf("MemTotal %d MiB, want %d", got, 100+i)
				}
				start, before := startOf(t, c.init), boottime(t)
				up := floats(t, c.sh(t, "cat /proc/uptime"))[0]
				if after := boottime(t); up < before-start-0.02 || up > after-start+0.02 {
					t.Errorf("uptime %.2f, want %.2f to %.2f", up, before-start, after-start)
				}
			}
		})
	}
}
