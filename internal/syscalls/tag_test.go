// SPDX-License-Identifier: Apache-2.0

package syscalls

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTagsOfTheDeadAreKnown, also while a process is not reaped, and when another one has got
// its id.
func TestTagsOfTheDeadAreKnown(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := newTag(writerTag, cmd.Process.Pid)
	if !child.alive() || child.what() != writerTag || !newTag(holderTag, unix.Gettid()).alive() {
		t.Error("who lives is not alive")
	}
	if (child - 1).alive() {
		t.Error("another one with the id, begun at another time")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if child.alive() {
		t.Error("a zombie is alive")
	}
	_ = cmd.Wait() // it says that it was killed
	if child.alive() {
		t.Error("who is gone is alive")
	}
	if tag(0).alive() {
		t.Error("nobody is alive")
	}
}
