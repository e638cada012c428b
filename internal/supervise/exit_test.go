// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestASIGKILLIsNoCrash: the worker did not die of a request. Both kinds of workers, of
// this holder and of another, are judged alike.
func TestASIGKILLIsNoCrash(t *testing.T) {
	for _, c := range []struct {
		signal unix.Signal
		want   bool
	}{{unix.SIGKILL, false}, {unix.SIGSEGV, true}} {
		start := func() *exec.Cmd {
			cmd := exec.Command("sleep", "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(cmd.Process.Pid, c.signal); err != nil {
				t.Fatal(err)
			}
			return cmd
		}
		own := start()
		_ = own.Wait() // the state says it
		if got := exitOf(own.ProcessState); got.crashed != c.want {
			t.Errorf("%v: %+v", c.signal, got)
		}
		a := &Adopted{worker: start().Process.Pid, sys: realSystem()}
		if got := a.wait(); got.crashed != c.want {
			t.Errorf("%v, of another holder: %+v", c.signal, got)
		}
	}
}
