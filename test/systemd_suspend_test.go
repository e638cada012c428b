//go:build systemd

package test

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestSystemdNobodyNoticesASuspendedHost: the kernel freezes readers that wait for an
// answer and the daemon that owes it, in any order, and thaws them.
func TestSystemdNobodyNoticesASuspendedHost(t *testing.T) {
	startUnit(t)
	c, progress := survivorIn(t, unitMount)
	idle := plainContainer(t, "")
	wantAttached(t, unitMount, idle, "attached")
	worker := workerOfUnit(t, unitName)
	const asleep = 10 // seconds, at least
	for _, state := range []string{"freeze", "mem"} {
		wantReads(t, progress)
		age := floats(t, idle.sh(t, "cat /proc/uptime"))[0]
		awake := time.Now() // stands still meanwhile
		cmd := exec.Command("rtcwake", "-m", state, "-s", "10")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		wantReads(t, progress)
		ran := time.Since(awake).Seconds()
		if now := floats(t, idle.sh(t, "cat /proc/uptime"))[0]; now-age < ran+asleep/2 {
			t.Errorf("%s: the container is %.1f s older, of which %.1f s awake", state, now-age, ran)
		}
	}
	endSurvivor(t, c)
	if now := workerOfUnit(t, unitName); now != worker {
		t.Errorf("worker %d, was %d: %s", now, worker, journal(t, unitName))
	}
	if log := strings.ToLower(journal(t, unitName)); strings.Contains(log, "watchdog timeout") {
		t.Error(log)
	}
}
