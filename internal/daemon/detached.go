// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"os"

	"vprocfs/fs"
	"vprocfs/internal/seccomp"
	"vprocfs/internal/syscalls"
)

// Detached is a view that is served on a mount that is attached nowhere, until this process
// ends.
type Detached struct {
	// Root is the root of the mount. Only the holders of that file can reach the mount, so it
	// never shows on the host.
	Root  *os.File
	agent *syscalls.Agent
	log   *slog.Logger
}

// ServeDetached serves a view.
func ServeDetached(o ViewOptions, log *slog.Logger) (*Detached, error) {
	src, err := newSource(o, log)
	if err != nil {
		return nil, err
	}
	conn, fd, err := fs.MountDetached(fs.MountOptions{})
	if err != nil {
		src.Close()
		return nil, err
	}
	go func() {
		if err := fs.NewServer(conn, src, src.serverOptions(conn, nil)).Serve(); err != nil {
			log.Error("the container has lost its view", "err", err)
		}
	}()
	agent := syscalls.NewAgent(syscalls.NewView(src.registry), log)
	return &Detached{Root: os.NewFile(uintptr(fd), "view"), agent: agent, log: log}, nil
}

// Answer takes over the listener of a seccomp filter, and answers the system calls of its
// threads with the numbers of the view, until there are none any more.
func (d *Detached) Answer(listener int) {
	l, err := seccomp.NewListener(listener)
	if err != nil {
		d.log.Error("the kernel has given no seccomp listener", "err", err)
		return
	}
	go func() {
		defer func() { _ = l.Close() }() // nobody waits for its threads any more
		if err := d.agent.Serve("run", l); err != nil {
			d.log.Error("system calls are not answered any more", "err", err)
		}
	}()
}
