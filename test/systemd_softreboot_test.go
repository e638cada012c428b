// SPDX-License-Identifier: Apache-2.0

//go:build systemd

package test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSystemdNobodyNoticesASoftReboot: all of user space is restarted but what asks
// to be spared (SurviveFinalKillSignal=, systemd-soft-reboot.service(8)), which the
// guest's service does for this test, and the test for the container. The host's
// mount goes and comes; the container's is the same all the time.
func TestSystemdNobodyNoticesASoftReboot(t *testing.T) {
	startUnit(t)
	systemctl(t, "restart", unitName)
	c, progress := survivorIn(t, unitMount)
	if err := unix.Setxattr(v2Dir(t, c.init), "user.survive_final_kill_signal", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	wantReads(t, progress)
	dev, holder := deviceAt(t, unitMount), holderOf(t, unitName)
	start := time.Now()
	now := since()
	systemctl(t, "soft-reboot")
	defer func() {
		if t.Failed() {
			out, err := exec.Command("sh", "-c", "systemctl show -P SoftRebootsCount; systemctl list-jobs; journalctl -b -o short-monotonic | tail -200").CombinedOutput()
			t.Logf("%v\n%s", err, out)
		}
	}()
	waitFor(t, "the soft reboot", func() bool {
		count, _ := exec.Command("systemctl", "show", "-P", "SoftRebootsCount").Output() // nobody answers in between
		return string(count) == "1\n" && property(unitName, "SubState") == "running"
	})
	t.Logf("the soft reboot took %.0f s", time.Since(start).Seconds())
	if log := journal(t, unitName, now); !strings.Contains(log, "mounted again") {
		t.Errorf("the mount point was not unmounted:\n%s", log)
	}
	if now := holderOf(t, unitName); now == holder {
		t.Error("the holder was not restarted")
	}
	checkUptime(t, unitMount)
	wantReads(t, progress)
	if now := deviceAt(t, unitMount); now != dev {
		t.Errorf("mount %s, was %s\n%s", now, dev, journal(t, unitName))
	}
	endSurvivor(t, c)
}
