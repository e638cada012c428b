//go:build systemd

package test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// background starts a read of a file that may have to wait, and returns what waits
// for its end.
func background(t *testing.T, path string) (end func() (string, error)) {
	t.Helper()
	cmd := exec.Command("cat", path)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	return func() (string, error) {
		select {
		case err := <-done:
			return out.String(), err
		case <-time.After(patience):
			t.Fatalf("no answer in %s", patience)
		}
		return "", nil
	}
}

// TestSystemdStopHasReadersWait: until the next start, or until the guide's steps
// that end it for good.
func TestSystemdStopHasReadersWait(t *testing.T) {
	startUnit(t)
	dev := deviceAt(t, unitMount)
	c := plainContainer(t, "")
	wantAttached(t, unitMount, c, "attached")
	systemctl(t, "stop", unitName)
	if now := deviceAt(t, unitMount); now != dev {
		t.Fatalf("mount %q, was %s", now, dev)
	}
	end := background(t, unitMount+"/proc/uptime")
	startUnit(t)
	if out, err := end(); err != nil || len(strings.Fields(out)) != 2 {
		t.Errorf("who waited got %v: %q", err, out)
	}
	wantView(t, c)

	systemctl(t, "stop", unitName)
	end = background(t, unitMount+"/proc/uptime")
	steps := guideSteps(t, "operations.md", "Under systemd")
	if out, err := exec.Command("bash", "-exc", steps).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := end(); err == nil {
		t.Errorf("who waited got %q", out)
	}
	wantDead(t, c)
	if deviceAt(t, unitMount) != "" {
		t.Error("it is mounted still")
	}
	systemctl(t, "enable", "--now", unitName)
	checkUptime(t, unitMount)
	wantView(t, c)
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
