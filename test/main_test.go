// SPDX-License-Identifier: Apache-2.0

// Package test tries vprocfs as its users do: it builds the binary once and runs
// it, with real mounts, real cgroups and real containers. It needs root.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if signal.Ignored(unix.SIGHUP) {
		// As under nohup(1). What is caught here is not ignored by the programs that
		// tests start.
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	if tool := os.Getenv(toolEnv); tool != "" {
		os.Exit(runTool(tool))
	}
	os.Exit(testMain(m))
}

// testMain builds the binary into a directory of its own, first in PATH, so that
// tests and scripts find it as vprocfs.
func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests mount file systems and make cgroups: run them as root")
		return 1
	}
	dir, err := os.MkdirTemp("", "vprocfs-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary := os.Getenv(binaryEnv); binary != "" {
		// Where there is no Go: in a guest.
		if err := os.Symlink(binary, filepath.Join(dir, "vprocfs")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return runIn(m, dir)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "vprocfs"), module+"/cmd/vprocfs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n%s", build, err, out)
		return 1
	}
	return runIn(m, dir)
}

// binaryEnv names a binary to test, which is not built then.
const binaryEnv = "VPROCFS_BINARY"

func runIn(m *testing.M, dir string) int {
	if err := os.Setenv("PATH", dir+":"+os.Getenv("PATH")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
