// SPDX-License-Identifier: Apache-2.0

// Package inject holds the ways into containers that are about to start: the OCI hook
// and the wrapper runtime. Each is a few lines over package attach.
//
// All of them fail open: if the daemon is dead or slow, the container starts with the
// kernel's files.
package inject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/attach"
)

const (
	// probeTime is how long the daemon may take to answer.
	probeTime = time.Second
	// attachTime is how long all files of a container may take. Without a hung file
	// system it is some milliseconds.
	attachTime = 3 * time.Second
	// stateSize bounds the state that a runtime passes, in bytes.
	stateSize = 1 << 20
)

// AnnotationView is the annotation of a container that shall keep the kernel's files:
// its value is "off".
const AnnotationView = "vprocfs.io/view"

// state is what the hook uses of the state of a container (OCI runtime specification,
// runtime.md, "State").
type state struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	PID         int               `json:"pid"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations"`
}

// errStage is returned if the hook runs at a stage at which it can do nothing.
var errStage = errors.New("it runs in the namespaces of the container: `vprocfs hook` belongs to the stage createRuntime")

// Hook attaches the files of the daemon at dir to a container at the createRuntime
// stage, whose state it reads from in. The files are there before the program of the
// container starts. At the stage poststart it attaches them too, but the program may
// have read the kernel's files by then. An error concerns the view only: the container
// may start.
func Hook(ctx context.Context, in io.Reader, dir string) error {
	text, err := io.ReadAll(io.LimitReader(in, stateSize))
	if err != nil {
		return fmt.Errorf("read the state of the container from stdin: %w", err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil || s.Version == "" {
		return errors.New("stdin has no OCI state of a container: the container runtime runs this command")
	}
	if err := s.attach(ctx, dir); err != nil {
		return fmt.Errorf("container %q starts with the kernel's files: %w", s.ID, err)
	}
	return nil
}

func (s *state) attach(ctx context.Context, dir string) error {
	if s.Annotations[AnnotationView] == "off" {
		return nil
	}
	if s.PID <= 1 { // 1 or 0 as the container sees itself
		return errStage
	}
	o := attach.Options{Dir: dir, Timeout: attachTime}
	if s.Status != "running" {
		var err error
		if o.Rootfs, err = rootfs(s.Bundle); err != nil {
			return err
		}
	}
	return attachAll(ctx, s.PID, o)
}

// rootfs returns the path of the root file system of the bundle at dir.
func rootfs(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return "", err
	}
	var config struct {
		Root struct {
			Path string `json:"path"`
		} `json:"root"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("%s/config.json: %w", dir, err)
	}
	switch path := config.Root.Path; {
	case path == "":
		return "", fmt.Errorf("%s/config.json: no root file system", dir)
	case filepath.IsAbs(path):
		return path, nil
	default:
		return filepath.Join(dir, path), nil
	}
}

// Attach attaches all files of the daemon at dir in the container of process pid, which
// runs or waits to be started. It takes about limit at most; a daemon that does not
// answer counts as dead after one second. The error says which files are missing.
func Attach(ctx context.Context, pid int, dir string, limit time.Duration) error {
	return attachAll(ctx, pid, attach.Options{Dir: dir, Timeout: limit})
}

// attachAll attaches all files in the container of process pid. It returns an error if
// one of them could not be attached.
func attachAll(ctx context.Context, pid int, o attach.Options) error {
	if err := probe(o.Dir); err != nil {
		return err
	}
	results, err := attach.Attach(ctx, pid, o)
	for _, r := range results {
		if r.Err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", r.Target, r.Err))
		}
	}
	return err
}

// logTime is how long the system log may take for a line.
const logTime = 100 * time.Millisecond

// Log writes a warning to the system log, which container runtimes have no other way
// to: what a hook writes to stderr is lost unless it fails. It gives up after 100 ms.
func Log(warning string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w, err := syslog.New(syslog.LOG_WARNING|syslog.LOG_DAEMON, "vprocfs")
		if err != nil {
			return // no log runs
		}
		_, _ = w.Write([]byte(warning)) // nobody is left to tell
		_ = w.Close()
	}()
	select {
	case <-done:
	case <-time.After(logTime):
	}
}

// probe returns an error if the daemon at dir does not answer in time. A goroutine that
// waits for a dead daemon ends with this process.
func probe(dir string) error {
	file := filepath.Join(dir, "proc/uptime")
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		err := unix.Statfs(file, &st)
		switch {
		case err != nil:
			err = fmt.Errorf("statfs %s: %w", file, err)
		case st.Type != unix.FUSE_SUPER_MAGIC:
			err = fmt.Errorf("no daemon serves %s", dir)
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(probeTime):
		return fmt.Errorf("the daemon at %s does not answer in %s", dir, probeTime)
	}
}
