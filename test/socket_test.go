// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestToConnectUpgradesNothing: a client has to say what it wants.
func TestToConnectUpgradesNothing(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	worker := d.worker(t)
	path := "/run/vprocfs/" + strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-") + ".sock"
	c, err := net.Dial("unix", path)
	if err != nil {
		c, err = net.Dial("unixpacket", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := d.linesFor(t, 2*time.Second, "upgrad"); n != 0 {
		t.Errorf("%d lines of an upgrade", n)
	}
	if now := d.worker(t); now != worker {
		t.Errorf("worker %d was replaced by %d", worker, now)
	}
}

// TestAnUpgradeOfAStoppedDaemonIsAnError and not a wait without end.
func TestAnUpgradeOfAStoppedDaemonIsAnError(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, dir, nil, "serve", dir)
	d.line(t)
	d.cmd.Process.Signal(unix.SIGSTOP)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "vprocfs", "upgrade", dir).CombinedOutput()
	d.cmd.Process.Signal(unix.SIGCONT)
	if err == nil || ctx.Err() != nil || !strings.Contains(string(out), "the daemon is stopped or hangs") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%v %v: %s", err, ctx.Err(), out)
	}
	checkUptime(t, dir)
}
