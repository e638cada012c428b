// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// program makes a copy of the binary in a directory of its own.
func program(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("vprocfs")
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "vprocfs")
	replaceFile(t, to, readFile(t, path))
	return to
}

// replaceFile puts another file in the place of one that may be running.
func replaceFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// startProgram is startDaemon for a certain binary.
func startProgram(t *testing.T, path, dir string) *daemon {
	t.Helper()
	d := startServing(t, exec.Command(path, "serve", dir), dir)
	return d
}

func TestUpgradeKeepsThePidAndTheMount(t *testing.T) {
	path, dir := program(t), t.TempDir()
	d := startProgram(t, path, dir)
	worker := d.worker(t)
	f, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	replaceFile(t, path, readFile(t, path))
	if out, stderr, status := vprocfs(t, "upgrade", dir); status != 0 || out+stderr != "" {
		t.Fatalf("exit status %d: %s%s", status, out, stderr)
	}
	d.until(t, "msg=upgraded", fmt.Sprintf("pid=%d ", d.cmd.Process.Pid))
	now := d.worker(t)
	for _, pid := range []int{d.cmd.Process.Pid, now} {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || exe != path {
			t.Errorf("%d runs %s, %v", pid, exe, err)
		}
	}
	if now == worker {
		t.Error("the worker is the old one")
	}
	checkUptime(t, dir)
	if g, err := os.Stat(dir); err != nil || !os.SameFile(f, g) {
		t.Errorf("another mount: %v", err)
	}
	// As good as new: a signal does it again, a kill is survived, SIGTERM ends it.
	d.cmd.Process.Signal(unix.SIGUSR1)
	d.until(t, "msg=upgraded")
	unix.Kill(d.worker(t), unix.SIGKILL)
	checkUptime(t, dir)
	d.stop(t)
}

// TestAnUpgradeIsAPauseOfMilliseconds: nobody waits for longer than 100 ms.
func TestAnUpgradeIsAPauseOfMilliseconds(t *testing.T) {
	path, dir := program(t), t.TempDir()
	d := startProgram(t, path, dir)
	c := startCommand(t, []string{"--mount", dir, "--memory", "64M"}, toolCommand(t, "latency")...)
	for attempt := 1; ; attempt++ {
		ended := make(chan string, 1)
		go func() {
			_, stderr, _ := vprocfs(t, "upgrade", dir)
			ended <- stderr
		}()
		var longest []float64
		for over := false; !over; {
			select {
			case stderr := <-ended:
				if over = true; stderr != "" {
					t.Fatalf("upgrade: %s", stderr)
				}
			default:
			}
			longest = append(longest, floats(t, c.answer(t, "20 /proc/uptime", "."))[2])
		}
		if ms := slices.Max(longest) / 1000; ms <= 100 {
			t.Logf("the longest of %d reads took %.1f ms", 20*len(longest), ms)
			break
		} else if attempt == 5 {
			t.Fatalf("the longest read took %.1f ms", ms)
		}
	}
	d.stop(t)
}

func TestAnUpgradeWaitsForTheWorkerToBeAtWork(t *testing.T) {
	path, dir := program(t), t.TempDir()
	d := startProgram(t, path, dir)
	for range 5 {
		unix.Kill(d.worker(t), unix.SIGKILL)
		if _, stderr, status := vprocfs(t, "upgrade", dir); status != 0 {
			t.Fatalf("exit status %d: %s", status, stderr)
		}
		checkUptime(t, dir)
	}
	d.stop(t)
}

func TestABinaryThatIsNoGoodLeavesTheOldOneInCharge(t *testing.T) {
	path, dir := program(t), t.TempDir()
	d := startProgram(t, path, dir)
	good := readFile(t, path)
	for name, c := range map[string]struct{ content, want string }{
		"none":       {"no program", "exec format error"},
		"exits":      {"#!/bin/sh\nexit 3\n", "exit status 3"},
		"hangs":      {"#!/bin/sh\nexec sleep 1000\n", "not at work after"},
		"killed":     {"#!/bin/sh\nkill -9 $$\n", "killed"},
		"other form": {"#!/bin/sh\nVPROCFS_WORKER='{\"version\":99}' exec " + path + ".good \"$@\"\n", "status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			replaceFile(t, path+".good", good)
			worker := d.worker(t)
			replaceFile(t, path, c.content)
			_, stderr, status := vprocfs(t, "upgrade", dir)
			if status != 1 || !strings.Contains(stderr, c.want) {
				t.Errorf("exit status %d: %s", status, stderr)
			}
			if now := d.worker(t); now != worker {
				t.Errorf("the worker was replaced")
			}
			checkUptime(t, dir)
			// What replaces a worker that dies is the program that ran before.
			unix.Kill(worker, unix.SIGKILL)
			checkUptime(t, dir)
		})
	}
	replaceFile(t, path, good)
	if _, stderr, status := vprocfs(t, "upgrade", dir); status != 0 {
		t.Errorf("the good one again: exit status %d: %s", status, stderr)
	}
	d.stop(t)
}

// TestAWorkerMayDieWhileItsSuccessorGetsReady kills workers in the middle of an upgrade
// whose new worker takes its time: others of the former program come at once, and the
// upgrade ends as it would have.
func TestAWorkerMayDieWhileItsSuccessorGetsReady(t *testing.T) {
	for _, c := range []struct {
		name, then string
		status     int
		log        string
	}{
		{"good", `exec %s "$@"`, 0, "msg=upgraded"},
		{"no good", "exit 3; %s", 1, "exit status 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, dir := program(t), t.TempDir()
			d := startProgram(t, path, dir)
			former := d.worker(t)
			replaceFile(t, path+".good", readFile(t, path))
			replaceFile(t, path, "#!/bin/sh\ncase $VPROCFS_WORKER in *'\"candidate\":true'*) "+
				"until [ -e "+path+".then ]; do sleep 0.02; done; esac\n. "+path+".then\n")
			ended := make(chan int)
			go func() {
				_, _, status := vprocfs(t, "upgrade", dir)
				ended <- status
			}()
			d.until(t, "msg=upgrading")
			worker := func() (pid int) {
				waitFor(t, "a worker beside the candidate", func() bool {
					for _, pid = range children(d.cmd.Process.Pid) {
						// The candidate's is the shell.
						exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
						if strings.HasPrefix(exe, path) && pid != former {
							return true
						}
					}
					return false
				})
				return pid
			}
			for range 2 {
				unix.Kill(former, unix.SIGKILL)
				checkUptime(t, dir)
				former = worker()
			}
			d.cmd.Process.Signal(unix.SIGUSR2)
			d.until(t, "virtualisation switched", "on=false")
			replaceFile(t, path+".then", fmt.Sprintf(c.then, path+".good"))
			if status := <-ended; status != c.status {
				t.Errorf("exit status %d, want %d", status, c.status)
			}
			d.until(t, c.log)
			checkUptime(t, dir)
			if now := d.worker(t); (now == former) != (c.status != 0) {
				t.Errorf("the worker was %d and is %d", former, now)
			}
			// Whoever serves now has heard of the first signal.
			d.cmd.Process.Signal(unix.SIGUSR2)
			d.until(t, "virtualisation switched", "on=true")
			unix.Kill(d.worker(t), unix.SIGKILL)
			checkUptime(t, dir)
			d.stop(t)
		})
	}
}

// TestACandidateEndsWithTheHolder, which nobody else would end: it has the descriptors,
// and a connection of which somebody has one is never over.
func TestACandidateEndsWithTheHolder(t *testing.T) {
	path, dir := program(t), t.TempDir()
	d := startProgram(t, path, dir)
	worker := d.worker(t)
	replaceFile(t, path, "#!/bin/sh\nexec sleep 1000\n")
	upgrade := make(chan struct{})
	go func() {
		vprocfs(t, "upgrade", dir)
		close(upgrade)
	}()
	d.until(t, "msg=upgrading")
	var candidate int
	waitFor(t, "a candidate", func() bool {
		for _, candidate = range children(d.cmd.Process.Pid) {
			if candidate != worker {
				return true
			}
		}
		return false
	})
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	d.until(t, "unmounted by another process")
	waitFor(t, "the candidate to end", func() bool { return unix.Kill(candidate, 0) != nil })
	d.cmd.Wait()
	<-upgrade
}

// TestAWorkerThatAnswersNothingIsTakenBack upgrades to one that starts, says that it
// serves, and does not.
func TestAWorkerThatAnswersNothingIsTakenBack(t *testing.T) {
	path, dir := program(t), t.TempDir()
	d := startProgram(t, path, dir)
	replaceFile(t, path, "#!/bin/sh\nexec "+strings.Join(toolCommand(t, "deaf"), " ")+"\n")
	_, stderr, status := vprocfs(t, "upgrade", dir)
	if status != 1 || !strings.Contains(stderr, "failed the probe") {
		t.Errorf("exit status %d: %s", status, stderr)
	}
	checkUptime(t, dir)
	if got := readFile(t, fmt.Sprintf("/proc/%d/comm", d.worker(t))); got != "vprocfs\n" {
		t.Errorf("the worker is %q", got)
	}
	d.stop(t)
}

// deaf is a worker that serves nothing: it only says what workers say to holders.
func deaf() error {
	const control = 3
	if err := unix.SetNonblock(control, false); err != nil {
		return err
	}
	for _, word := range []string{"ready", "serving"} {
		if _, err := unix.Write(control, []byte(word)); err != nil {
			return err
		}
		// "go", and the next ping, if there is one before it is killed.
		if _, err := unix.Read(control, make([]byte, 100)); err != nil {
			return err
		}
	}
	return nil
}
