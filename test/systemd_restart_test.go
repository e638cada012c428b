// SPDX-License-Identifier: Apache-2.0

//go:build systemd

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests whose names begin with TestSystemd are about the unit, and run in a
// guest whose PID 1 is Debian's systemd: go run ./test/vm -systemd -tests. They
// install the unit where the machine's own would be.
const (
	unitName   = "vprocfs.service"
	unitMount  = "/var/lib/vprocfs"
	unitBinary = "/usr/bin/vprocfs"
	unitDir    = "/etc/systemd/system"
)

// guestWatchdog stands in for the unit's WatchdogSec=, so that less is waited. It is
// more than a hung worker may take until it is replaced.
const guestWatchdog = "20s"

// systemctl runs it, and fails the test where it fails.
func systemctl(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command("systemctl", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", cmd, err, out, journal(t, unitName))
	}
}

// property is one of a unit, empty where systemd does not answer.
func property(unit, name string) string {
	out, _ := exec.Command("systemctl", "show", unit, "-P", name).Output()
	return strings.TrimSpace(string(out))
}

// journal is the log of a unit, or a part of it that flags of journalctl(1) choose.
func journal(t testing.TB, unit string, flags ...string) string {
	t.Helper()
	flags = append([]string{"-o", "short-monotonic", "--no-hostname", "-u", unit}, flags...)
	out, err := exec.Command("journalctl", flags...).Output()
	if err != nil {
		t.Fatalf("journalctl: %v", err)
	}
	return string(out)
}

// writeDropIn changes the unit until the test ends.
func writeDropIn(t *testing.T, unit, text string) {
	t.Helper()
	path := filepath.Join("/run/systemd/system", unit+".d", "50-test.conf")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		os.Remove(path)
		systemctl(t, "daemon-reload")
	})
}

// startUnit starts the unit, which it installs first where it is not. The test ends
// with a unit that serves.
func startUnit(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(unitBinary); err != nil {
		replaceFile(t, unitBinary, readFile(t, os.Getenv(binaryEnv)))
		replaceFile(t, filepath.Join(unitDir, unitName), readFile(t, unit))
		dir := filepath.Join(unitDir, unitName+".d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		replaceFile(t, dir+"/10-watchdog.conf", "[Service]\nWatchdogSec="+guestWatchdog+"\n")
		// LXCFS would be in the way of nothing but time.
		systemctl(t, "disable", "--now", "lxcfs")
		systemctl(t, "enable", unitName)
	}
	systemctl(t, "start", unitName)
}

// holderOf and workerOfUnit are the processes of a unit that serves.
func holderOf(t testing.TB, unit string) (pid int) {
	t.Helper()
	waitFor(t, "a holder", func() bool {
		var err error
		pid, err = strconv.Atoi(property(unit, "MainPID"))
		return err == nil && pid != 0 && property(unit, "SubState") == "running"
	})
	return pid
}

func workerOfUnit(t testing.TB, unit string) (pid int) {
	t.Helper()
	waitFor(t, "a worker", func() bool {
		_, err := fmt.Sscanf(property(unit, "StatusText"), "serving, worker %d", &pid)
		return err == nil && unix.Kill(pid, 0) == nil
	})
	return pid
}

// since chooses what is logged from now on.
func since() string { return fmt.Sprintf("--since=@%d", time.Now().Unix()) }

func TestSystemdStartEndsWhenTheFilesAreServed(t *testing.T) {
	startUnit(t)
	now := since()
	systemctl(t, "restart", unitName) // also where the unit ran before
	checkUptime(t, unitMount)
	for name, want := range map[string]string{
		"ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0", "NFileDescriptorStore": "8",
	} {
		if got := property(unitName, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	holder, worker := holderOf(t, unitName), workerOfUnit(t, unitName)
	others := slices.DeleteFunc(children(holder), func(pid int) bool { return isWatcher(t, pid) })
	if len(others) != 1 || others[0] != worker {
		t.Errorf("the status names worker %d, and the holder's children are %v beside the watcher", worker, others)
	}
	if _, err := os.ReadFile(unitMount + "/proc/pressure/cpu"); err != nil {
		t.Error(err)
	}
	if _, err := os.ReadFile(unitMount + "/sys/devices/system/cpu/online"); err != nil {
		t.Error(err)
	}
	if log := journal(t, unitName, now); regexp.MustCompile(`level=(WARN|ERROR)|unset environment|Unknown key`).MatchString(log) {
		t.Errorf("log:\n%s", log)
	}
}

func TestSystemdUnitIsHardened(t *testing.T) {
	startUnit(t)
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", unitName).CombinedOutput()
	m := regexp.MustCompile(`Overall exposure level for vprocfs\.service: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("exposure level %s", m[1])
	if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > 5 {
		t.Errorf("exposure level %s, want at most 5.0\n%s", m[1], out)
	}
}

// TestSystemdNobodyNoticesARestart has readers in a container check all that they
// read while the daemon is restarted, upgraded, killed and hung: none gets an error,
// wrong text, or numbers that went back.
func TestSystemdNobodyNoticesARestart(t *testing.T) {
	startUnit(t)
	now := since()
	systemctl(t, "restart", unitName) // NRestarts is 0 again
	c, progress := survivorIn(t, unitMount)
	kill := func(s unix.Signal, pids ...int) {
		for _, pid := range pids {
			if err := unix.Kill(pid, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range []struct {
		name             string
		do               func(holder, worker int)
		holder, worker   bool // it is another one afterwards
		counted, pausing bool // NRestarts counts it; the new worker comes late
	}{
		{"restart", func(_, _ int) { systemctl(t, "restart", unitName) }, true, true, false, false},
		{"reload", func(_, _ int) { systemctl(t, "reload", unitName) }, false, true, false, false},
		{"worker killed", func(_, worker int) { kill(unix.SIGKILL, worker) }, false, true, false, false},
		{"holder killed", func(holder, _ int) { kill(unix.SIGKILL, holder) }, true, true, true, false},
		{"both killed", func(holder, worker int) { kill(unix.SIGKILL, holder, worker) }, true, true, true, false},
		{"holder aborted", func(holder, _ int) { kill(unix.SIGABRT, holder) }, true, true, true, false},
		{"worker hung", func(_, worker int) { kill(unix.SIGSTOP, worker) }, false, true, false, true},
		{"holder hung", func(holder, _ int) { kill(unix.SIGSTOP, holder) }, true, true, true, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			wantReads(t, progress)
			dev, files := deviceAt(t, unitMount), property(unitName, "NFileDescriptorStore")
			restarts, err := strconv.Atoi(property(unitName, "NRestarts"))
			if err != nil {
				t.Fatal(err)
			}
			holder, worker := holderOf(t, unitName), workerOfUnit(t, unitName)
			s.do(holder, worker)
			waitFor(t, "the unit to serve with another process", func() bool {
				return holderOf(t, unitName) != holder == s.holder && workerOfUnit(t, unitName) != worker == s.worker
			})
			if s.pausing {
				time.Sleep(8 * time.Second) // until systemd would have seen no sign of life for guestWatchdog
				if now := holderOf(t, unitName); now != holder {
					t.Errorf("the holder is %d, was %d\n%s", now, holder, journal(t, unitName))
				}
			}
			if s.counted {
				restarts++
			} else if s.holder {
				restarts = 0
			}
			if got := property(unitName, "NRestarts"); got != strconv.Itoa(restarts) {
				t.Errorf("NRestarts is %s, want %d", got, restarts)
			}
			if now := deviceAt(t, unitMount); now != dev {
				t.Errorf("mount %s, was %s", now, dev)
			}
			if now := property(unitName, "NFileDescriptorStore"); now != files {
				t.Errorf("%s descriptors in the store, were %s", now, files)
			}
			wantReads(t, progress)
		})
	}
	endSurvivor(t, c)
	if log := journal(t, unitName, now); strings.Contains(log, "level=ERROR") {
		t.Errorf("log:\n%s", log)
	}
}

// TestSystemdReloadSaysThatTheNewBinaryIsNoGood: and the old one goes on.
func TestSystemdReloadSaysThatTheNewBinaryIsNoGood(t *testing.T) {
	startUnit(t)
	worker := workerOfUnit(t, unitName)
	good := readFile(t, unitBinary)
	// It can ask for the upgrade, and fails it.
	replaceFile(t, unitBinary+".good", good)
	replaceFile(t, unitBinary, "#!/bin/sh\n[ \"$1\" = serve ] && exit 3\nexec "+unitBinary+".good \"$@\"\n")
	defer replaceFile(t, unitBinary, good)
	if out, err := exec.Command("systemctl", "reload", unitName).CombinedOutput(); err == nil {
		t.Errorf("the reload went well: %s", out)
	}
	if now := workerOfUnit(t, unitName); now != worker || property(unitName, "ActiveState") != "active" {
		t.Errorf("worker %d, was %d; %s", now, worker, property(unitName, "ActiveState"))
	}
	checkUptime(t, unitMount)
}
