// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestCommandLine runs the scripts in testdata/cli: what each verb prints and
// its exit status, above all where the command line or the host is wrong.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cli",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":  scriptStatus,
			"unmount": scriptUnmount,
			"tmpfs":   scriptTmpfs,
			"lines":   scriptLines,
		},
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			path, err := exec.LookPath("vprocfs")
			env.Setenv("VPROCFS", path)
			return err
		},
	})
}

// scriptStatus is "status N COMMAND...": it runs the command, which must end
// with exit status N.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// scriptTmpfs is "tmpfs DIR": it mounts a tmpfs there until the script ends.
func scriptTmpfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tmpfs DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(unix.Mount("test", dir, "tmpfs", 0, ""))
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // the script may have done it
}

// scriptUnmount is "unmount DIR"; with ! in front nothing must be mounted there.
func scriptUnmount(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] unmount DIR")
	}
	err := unix.Unmount(ts.MkAbs(args[0]), unix.MNT_DETACH)
	if neg && !errors.Is(err, unix.EINVAL) {
		ts.Fatalf("unmount %s: %v, want %v", args[0], err, unix.EINVAL)
	}
	if !neg {
		ts.Check(err)
	}
}

// scriptLines is "lines N FILE": FILE (stdout and stderr too) must have N lines.
func scriptLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lines N FILE")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	n := 0
	for _, c := range ts.ReadFile(args[1]) {
		if c == '\n' {
			n++
		}
	}
	if n != want {
		ts.Fatalf("%s has %d lines, want %d", args[1], n, want)
	}
}
