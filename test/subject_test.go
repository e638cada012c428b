// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os/exec"
	"testing"
)

// startSubject starts a command that makes a container by other means than
// `vprocfs run`, and waits until it prints a line that says it is ready. It is
// then talked to as a container is, and ends with its input.
//
// The container's init is the command's only child, or the command itself.
func startSubject(t testing.TB, cmd *exec.Cmd, ready string) *container {
	t.Helper()
	c := talkTo(t, cmd)
	if line, err := c.out.ReadString('\n'); err != nil || line != ready+"\n" {
		t.Fatalf("%s: %v: %q", cmd, err, line)
	}
	c.init = cmd.Process.Pid
	if kids := children(c.init); len(kids) == 1 {
		c.init = kids[0]
	}
	return c
}
