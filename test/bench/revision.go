// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// buildRevision builds the daemon of a revision of the git repository that is the working
// directory. Its source comes below dir.
func buildRevision(revision, dir, binary string) error {
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		return err
	}
	archive := exec.Command("git", "archive", "--format=tar", "--end-of-options", revision)
	extract := exec.Command("tar", "-x", "-C", source)
	pipe, err := archive.StdoutPipe()
	if err != nil {
		return err
	}
	archive.Stderr, extract.Stderr = os.Stderr, os.Stderr
	extract.Stdin = pipe
	if err := archive.Start(); err != nil {
		return err
	}
	if err := errors.Join(extract.Run(), archive.Wait()); err != nil {
		return fmt.Errorf("git archive %s: %w", revision, err)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/vprocfs")
	build.Dir = source
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("%s: %w", build, err)
	}
	return nil
}

// serveCommand returns the command line of a daemon.
func serveCommand(binary, mount string) *exec.Cmd { return exec.Command(binary, "serve", mount) }

// end stops a daemon, and waits until it has ended.
func (p *peer) end() {
	_ = p.cmd.Process.Signal(unix.SIGTERM) // an error says that it has ended
	<-p.ended
}
