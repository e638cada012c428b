// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// worker returns the pid of the daemon's worker.
func (d *daemon) worker(t *testing.T) int {
	t.Helper()
	var pid int
	waitFor(t, "the daemon to have one worker", func() bool {
		// Others are looks through the mount, which are soon over.
		kids := children(d.cmd.Process.Pid)
		if len(kids) == 1 {
			pid = kids[0]
		}
		return len(kids) == 1
	})
	return pid
}

// until reads the log up to a line that has all of the words in it.
func (d *daemon) until(t testing.TB, words ...string) string {
	t.Helper()
	for {
		line := d.line(t)
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			return line
		}
	}
}

// readUptime reads a file of the mount in a process of its own, which can be killed.
func readUptime(dir string) (string, error) {
	out, err := exec.Command("timeout", "-s", "KILL", "30", "cat", filepath.Join(dir, "proc/uptime")).CombinedOutput()
	return string(out), err
}

func checkUptime(t *testing.T, dir string) {
	t.Helper()
	if out, err := readUptime(dir); err != nil || len(strings.Fields(out)) != 2 {
		t.Fatalf("uptime: %v: %q", err, out)
	}
}

func TestAWorkerThatDiesIsReplaced(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	for _, s := range []unix.Signal{unix.SIGKILL, unix.SIGSEGV, unix.SIGABRT, unix.SIGKILL} {
		pid := d.worker(t)
		if err := unix.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		checkUptime(t, dir)
		// A crash has a trace in the log.
		if line := d.until(t, "msg=\"the worker has ended, starting another\"", fmt.Sprintf("pid=%d ", pid)); !strings.Contains(line, "reason=") {
			t.Errorf("log: %s", line)
		}
	}
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 || isMounted(t, dir) {
		t.Errorf("exit status %d, mounted: %t\n%s", status, isMounted(t, dir), log)
	}
}

func TestAWorkerThatHangsIsReplaced(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, []string{"WATCHDOG_USEC=3000000"}, "serve", dir)
	d.line(t)
	worker := d.worker(t)
	sleep(3000) // it answers, and stays
	if now := d.worker(t); now != worker {
		t.Fatalf("worker %d was replaced", worker)
	}
	unix.Kill(worker, unix.SIGSTOP)
	checkUptime(t, dir) // which waits for the next worker
	d.until(t, "the worker has ended", "no answer for 10s")
}

// TestADeadWorkerOwesNoAnswer kills a worker that was asked whether it works: its
// successor is not to die for want of the answer.
func TestADeadWorkerOwesNoAnswer(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, []string{"WATCHDOG_USEC=3000000"}, "serve", dir)
	d.line(t)
	asked := d.worker(t)
	unix.Kill(asked, unix.SIGSTOP)
	sleep(2000) // it is asked every second
	unix.Kill(asked, unix.SIGKILL)
	checkUptime(t, dir)
	worker := d.worker(t)
	sleep(10_000) // which an answer may take
	if now := d.worker(t); now != worker {
		t.Errorf("worker %d was replaced by %d", worker, now)
	}
}

// TestWorkersThatAnswerNothingAreAnOutage: each says that it serves, and then hangs.
// systemd is told that the holder works on until it gives up.
func TestWorkersThatAnswerNothingAreAnOutage(t *testing.T) {
	dir := t.TempDir()
	service := newFDStore(t)
	const watchdog = 6 * time.Second
	env := []string{"NOTIFY_SOCKET=" + service.path, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds())}
	d := startDaemon(t, dir, env, "serve", "--max-outage", "9s", dir)
	d.line(t)
	first := d.worker(t)
	ended := make(chan string)
	go func() {
		log, _ := d.end(t)
		ended <- log
	}()
	unix.Kill(first, unix.SIGKILL)
	alive, begun := time.NewTimer(watchdog), time.Now()
	for {
		select {
		case log := <-ended:
			if !strings.Contains(log, "gave up") {
				t.Errorf("log: %s", log)
			}
			return
		case <-alive.C:
			t.Fatalf("systemd has heard nothing for %v", watchdog)
		case state := <-service.said:
			if strings.Contains(state, "WATCHDOG=1") {
				alive.Reset(watchdog)
			}
			_, serving, _ := strings.Cut(state, "STATUS=serving, worker ")
			if worker, err := strconv.Atoi(serving); err == nil && worker != first {
				unix.Kill(worker, unix.SIGSTOP)
			}
			if time.Since(begun) > patience {
				t.Fatal("the outage does not end")
			}
		}
	}
}

// TestWhatAHolderCannotReadGoesOn: the mount point is gone when a holder takes the
// worker over, and containers use the mount.
func TestWhatAHolderCannotReadGoesOn(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	c := startContainer(t, "--mount", dir, "--memory", "64M")
	read := func() {
		t.Helper()
		if got := c.sh(t, "head -n 1 /proc/meminfo"); !strings.Contains(got, " 65536 kB") {
			t.Errorf("meminfo: %q", got)
		}
	}
	if out, err := exec.Command("umount", "-l", "-R", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	read()
	worker := d.worker(t)
	d.cmd.Process.Kill()
	d.until(t, "cannot be read at the mount point: going on")
	line := d.until(t, "msg=serving")
	read()
	unix.Kill(worker, unix.SIGKILL)
	read()
	unix.Kill(holderIn(t, line), unix.SIGTERM)
	d.until(t, "msg=stopping")
}

// TestOnlyAServiceLeavesItsHolderToSystemd: what a service has started has its
// environment too.
func TestOnlyAServiceLeavesItsHolderToSystemd(t *testing.T) {
	for _, c := range []struct{ pid, log string }{
		{"$$", "until systemd starts another"},
		{"1", "the holder is gone: started another"},
	} {
		dir := t.TempDir()
		env := []string{"NOTIFY_SOCKET=" + newFDStore(t).path}
		cmd := exec.Command("sh", "-c", "SYSTEMD_EXEC_PID="+c.pid+" exec vprocfs serve "+dir)
		d := startDaemonCommand(t, dir, cmd, env)
		d.line(t)
		worker := d.worker(t)
		d.cmd.Process.Kill()
		d.until(t, c.log)
		checkUptime(t, dir)
		if c.pid == "$$" {
			unix.Kill(worker, unix.SIGKILL)
		} else {
			endHolder(t, d, dir, d.until(t, "msg=serving"))
		}
	}
}

func TestAHolderThatIsKilledIsReplaced(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	worker := d.worker(t)
	d.cmd.Process.Signal(unix.SIGUSR2)
	d.until(t, "virtualisation switched", "on=false")
	d.cmd.Process.Kill()
	line := d.until(t, "msg=serving")
	if got := workerOf(t, line); got != worker {
		t.Errorf("worker %d, was %d", got, worker)
	}
	checkUptime(t, dir)
	// The new holder replaces the worker, which is not its child, and stops.
	unix.Kill(worker, unix.SIGKILL)
	d.until(t, "the worker has ended")
	checkUptime(t, dir)
	unix.Kill(holderIn(t, line), unix.SIGUSR2) // all of them have heard of the first one
	d.until(t, "virtualisation switched", "on=true")
	endHolder(t, d, dir, line)
}

// TestAWorkerBeginsWithoutItsHolder kills the holder while the worker that it has just
// started is on its way: nobody else has the descriptors then.
func TestAWorkerBeginsWithoutItsHolder(t *testing.T) {
	dir := t.TempDir()
	// The kernel sends SIGHUP to a stopped process that becomes an orphan. It is the daemon
	// that must not mind: what this process ignores it would go on to ignore, and all that it
	// starts with it (signal.Reset does not undo signal.Ignore).
	d := startDaemonCommand(t, dir, exec.Command("sh", "-c", "trap '' HUP; exec vprocfs serve "+dir), nil)
	d.line(t)
	first := d.worker(t)
	unix.Kill(first, unix.SIGKILL)
	var second int
	for second == 0 {
		for _, pid := range children(d.cmd.Process.Pid) {
			if pid != first {
				second = pid
				unix.Kill(pid, unix.SIGSTOP)
			}
		}
	}
	d.cmd.Process.Kill()
	unix.Kill(second, unix.SIGCONT)
	checkUptime(t, dir)
	line := d.until(t, "msg=serving")
	if got := workerOf(t, line); got != second {
		t.Errorf("worker %d, was %d", got, second)
	}
	checkUptime(t, dir)
	endHolder(t, d, dir, line)
}

// holderIn is the holder that line of the log is of.
func holderIn(t *testing.T, line string) (pid int) {
	t.Helper()
	if _, err := fmt.Sscanf(line[strings.Index(line, " pid="):], " pid=%d", &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// endHolder ends the holder that line of the log is of, which is no child of ours.
func endHolder(t *testing.T, d *daemon, dir, line string) {
	t.Helper()
	unix.Kill(holderIn(t, line), unix.SIGTERM)
	if log, _ := d.end(t); !strings.Contains(log, "msg=stopping") {
		t.Errorf("log: %s", log)
	}
	waitFor(t, "the mount to go", func() bool { return !isMounted(t, dir) })
}

func TestASecondSignalEndsBoth(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	worker := d.worker(t)
	unix.Kill(worker, unix.SIGSTOP) // so that the first signal is not enough
	defer unix.Kill(worker, unix.SIGKILL)
	d.cmd.Process.Signal(unix.SIGTERM)
	d.until(t, "msg=stopping")
	d.cmd.Process.Signal(unix.SIGTERM)
	d.cmd.Wait()
	unix.Kill(worker, unix.SIGCONT)
	waitFor(t, "the worker to end", func() bool {
		return unix.Kill(worker, 0) != nil || statFields(fmt.Sprintf("/proc/%d/stat", worker))[3] == "Z"
	})
}

func TestAnOutageThatLastsIsEnded(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", "--max-outage", "2s", dir)
	d.line(t)
	stop := make(chan struct{})
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for {
			select {
			case <-stop:
				return
			default:
				for _, pid := range children(d.cmd.Process.Pid) {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	}()
	out, err := readUptime(dir)
	for err == nil {
		out, err = readUptime(dir)
	}
	if !strings.Contains(out, "not connected") && !strings.Contains(out, "Software caused connection abort") {
		t.Errorf("who waited got %v: %q", err, out)
	}
	log, status := d.end(t)
	close(stop)
	<-killed
	if status != 1 || !strings.Contains(log, "gave up") {
		t.Errorf("%v, who waited got %q, log %q", d.cmd.ProcessState, out, log)
	}
	// And the next one replaces the mount.
	startDaemon(t, dir, nil, "serve", dir).line(t)
	checkUptime(t, dir)
}

// TestWhoWaitsForPressureWaitsOn has programs wait for events while the worker is
// killed, and upgraded: they get those that come afterwards.
func TestWhoWaitsForPressureWaitsOn(t *testing.T) {
	needTriggers(t)
	for _, mode := range []string{"poll", "epoll"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			d := startDaemon(t, dir, nil, "serve", dir)
			d.line(t)
			w := watchStalls(t, []string{"--mount", dir}, mode, "/proc/pressure/cpu", documented(t), "3")
			for range 3 {
				unix.Kill(d.worker(t), unix.SIGKILL)
				checkUptime(t, dir)
			}
			if _, stderr, status := vprocfs(t, "upgrade", dir); status != 0 {
				t.Fatalf("upgrade: %s", stderr)
			}
			burnOn(t, v2Dir(t, w.init))
			w.expect(t, "event triggered!")
			unix.Kill(d.worker(t), unix.SIGKILL)
			for range 2 {
				w.expect(t, "event triggered!")
			}
		})
	}
}

// TestASecondSignalEndsItAtOnce: nothing is waited for, not even a worker that hangs.
func TestASecondSignalEndsItAtOnce(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	unix.Kill(d.worker(t), unix.SIGSTOP)
	d.cmd.Process.Signal(unix.SIGTERM)
	d.until(t, "msg=stopping")
	begun := time.Now()
	d.cmd.Process.Signal(unix.SIGTERM)
	if log, status := d.end(t); status != 0 || isMounted(t, dir) {
		t.Errorf("exit status %d, mounted: %t, log %q", status, isMounted(t, dir), log)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}
