package test

import (
	"bufio"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// startSubject starts a command that makes a container by other means than
// `vprocfs run`, and waits until it prints a line that says it is ready. It is
// then talked to as a container is, and ends with its input.
//
// The container's init is the command's only child, or the command itself.
func startSubject(t testing.TB, cmd *exec.Cmd, ready string) *container {
	t.Helper()
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &container{cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close()
		c.cmd.Wait()
	})
	if line, err := c.out.ReadString('\n'); err != nil || line != ready+"\n" {
		t.Fatalf("%s: %v: %q", cmd, err, line)
	}
	c.init = cmd.Process.Pid
	if kids := children(c.init); len(kids) == 1 {
		c.init = kids[0]
	}
	return c
}
