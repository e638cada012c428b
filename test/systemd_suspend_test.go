// SPDX-License-Identifier: Apache-2.0

//go:build systemd

package test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// suspendHost suspends the guest to memory for about 10 s, and returns false where a
// task could not be frozen.
func suspendHost(t *testing.T) bool {
	t.Helper()
	// Not 20 s: it is waited for in vain.
	if err := os.WriteFile("/sys/power/pm_freeze_timeout", []byte("3000"), 0); err != nil {
		t.Fatal(err)
	}
	since := time.Now().Format("2006-01-02 15:04:05")
	cmd := exec.Command("rtcwake", "-m", "mem", "-s", "10")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return true
	}
	kernel, logErr := exec.Command("journalctl", "-k", "--since", since).CombinedOutput()
	if logErr != nil || !strings.Contains(string(kernel), "refusing to freeze") {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, kernel)
	}
	return false
}

// TestSystemdNobodyNoticesASuspendedHost: a container that only sleeps has grown older
// afterwards. And one whose readers are frozen while they wait for an answer, or cannot
// be frozen since the daemon that owes it was before, goes on as if nothing had been.
func TestSystemdNobodyNoticesASuspendedHost(t *testing.T) {
	startUnit(t)
	worker := workerOfUnit(t, unitName)
	idle := plainContainer(t, "")
	wantAttached(t, unitMount, idle, "attached")
	age := func() float64 { return floats(t, idle.sh(t, "cat /proc/uptime"))[0] }

	before, start := age(), time.Now() // time.Since counts no suspension
	if !suspendHost(t) {
		t.Fatal("a host whose containers read nothing cannot be suspended")
	}
	if aged, awake := age()-before, time.Since(start).Seconds(); aged < awake+5 {
		t.Errorf("the container is %.1f s older, of which %.1f s awake", aged, awake)
	}

	c, progress := survivorIn(t, unitMount)
	for range 3 {
		wantReads(t, progress)
		t.Logf("beside readers: suspended %v", suspendHost(t))
	}
	wantReads(t, progress)
	endSurvivor(t, c)
	if now := workerOfUnit(t, unitName); now != worker {
		t.Errorf("worker %d, was %d: %s", now, worker, journal(t, unitName))
	}
}
