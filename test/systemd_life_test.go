// SPDX-License-Identifier: Apache-2.0

//go:build systemd

package test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestSystemdStopEndsEverything: nobody waits after a stop. The next start mounts anew.
func TestSystemdStopEndsEverything(t *testing.T) {
	startUnit(t)
	c := plainContainer(t, "")
	wantAttached(t, unitMount, c, "attached")
	wantView(t, c)
	systemctl(t, "stop", unitName)
	if deviceAt(t, unitMount) != "" {
		t.Error("it is mounted still")
	}
	wantHost(t, c)
	systemctl(t, "start", unitName)
	checkUptime(t, unitMount)
	wantAttached(t, unitMount, c, "attached")
	wantView(t, c)
}

// TestSystemdAWrongCommandLineEndsEverything: the unit is not started again then.
func TestSystemdAWrongCommandLineEndsEverything(t *testing.T) {
	startUnit(t)
	c := plainContainer(t, "")
	wantAttached(t, unitMount, c, "attached")
	wantView(t, c)
	t.Cleanup(func() { startUnit(t) }) // after the drop-in is gone
	writeDropIn(t, unitName, "[Service]\nEnvironment=VPROCFS_OPTS=--no-such-flag\n")
	if err := exec.Command("systemctl", "restart", unitName).Run(); err == nil {
		t.Error("it has started")
	}
	waitFor(t, "the mount to end", func() bool { return deviceAt(t, unitMount) == "" })
	waitFor(t, "the unit to be failed", func() bool { return property(unitName, "ActiveState") == "failed" })
	wantHost(t, c)
}

// TestSystemdMountsAnAbortedConnectionAgain: in the sandbox of the unit too. Containers that
// were bound to it get the new one, and systemd stores its descriptors.
func TestSystemdMountsAnAbortedConnectionAgain(t *testing.T) {
	startUnit(t)
	c := plainContainer(t, "")
	wantAttached(t, unitMount, c, "attached")
	wantView(t, c)
	dev, files := deviceAt(t, unitMount), property(unitName, "NFileDescriptorStore")
	holder := holderOf(t, unitName)
	abort(t, unitMount)
	waitFor(t, "another connection", func() bool { now := deviceAt(t, unitMount); return now != dev && now != "" })
	checkUptime(t, unitMount)
	waitFor(t, "the same descriptors in the store", func() bool { return property(unitName, "NFileDescriptorStore") == files })
	waitFor(t, "the container to be healed", func() bool {
		return !strings.Contains(c.sh(t, "busybox cat /proc/uptime 2>&1 || true"), "not connected")
	})
	wantView(t, c)
	if now := holderOf(t, unitName); now != holder {
		t.Errorf("holder %d, was %d", now, holder)
	}
}

// TestSystemdSandboxDeniesNothing has the kernel kill the daemon for a system call
// that the unit does not allow, and compares with a daemon that systemd did not
// start. Namespaces are entered by a helper, as on kernels before 6.11.
func TestSystemdSandboxDeniesNothing(t *testing.T) {
	startUnit(t)
	writeDropIn(t, unitName, "[Service]\nSystemCallErrorNumber=kill\nEnvironment=VPROCFS_OPTS=--init-pid=fork\n")
	systemctl(t, "restart", unitName)
	holder, worker := holderOf(t, unitName), workerOfUnit(t, unitName)
	outside, _ := serve(t, "--init-pid=fork")

	number := regexp.MustCompile(`[0-9]+`)
	shape := func(dir string) string {
		flags := []string{"--mount", dir, "--memory", "64M", "--cpus", "1", "--cpuset", "0"}
		text := inContainer(t, flags, "sh", "-c", `cd /proc
			for f in uptime meminfo stat cpuinfo loadavg swaps slabinfo pressure/*; do echo "== $f"; cat $f || exit; done
			cd /sys/devices/system/cpu && ls && for f in online offline present possible cpu0/topology/core_id; do echo "== $f"; cat $f || exit; done`)
		return strings.Join(strings.Fields(number.ReplaceAllString(text, "N")), " ")
	}
	inside, want := shape(unitMount), shape(outside)
	if inside != want || !strings.Contains(want, "MemTotal: N kB") {
		t.Errorf("within the unit:\n%s\noutside:\n%s", inside, want)
	}

	// The watch attaches those of runtimes.
	for _, runtime := range ociRuntimes {
		c := runtimeContainer(t, runtime, "")
		waitForView(t, c)
		wantView(t, c)
	}
	c := plainContainer(t, "")
	wantAttached(t, unitMount, c, "attached")
	wantView(t, c)
	if out, stderr, status := vprocfs(t, "heal"); status != 0 || out+stderr != "" {
		t.Errorf("heal: %d: %s%s", status, out, stderr)
	}
	w := watchStalls(t, []string{"--mount", unitMount}, "poll", "/proc/pressure/cpu", "some 150000 1000000", "1")
	burnOn(t, v2Dir(t, w.init))
	w.expect(t, "event triggered!")

	if now := holderOf(t, unitName); now != holder || workerOfUnit(t, unitName) != worker {
		t.Errorf("holder %d, was %d\n%s", now, holder, journal(t, unitName))
	}
	systemctl(t, "reload", unitName)
	checkUptime(t, unitMount)
	systemctl(t, "stop", unitName)
	if got := property(unitName, "Result"); got != "success" {
		t.Errorf("result %s\n%s", got, journal(t, unitName))
	}
	startUnit(t)
}
