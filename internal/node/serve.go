// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/daemon"
)

// ServeOptions are the options of Serve.
type ServeOptions struct {
	// Host is the directory where the root directory of the host is mounted.
	Host string
	// Dir is the mount point, in a volume of the pod that propagates mounts to the host.
	Dir string
	// Flags are further flags of `vprocfs serve`, separated by spaces.
	Flags string
	// Heal replaces the files of dead daemons in all containers.
	Heal func(context.Context) error
	// Clear takes the files of dead daemons out of all containers.
	Clear func(context.Context) error
	Log   *slog.Logger
}

// readyPause is the time between two looks at whether the daemon serves.
const readyPause = 200 * time.Millisecond

// Serve runs the daemon in this pod until ctx ends, if the host has no systemd. Otherwise it
// only waits for that. When the daemon serves, it heals containers that a pod that was
// killed has left. At the end all containers have the kernel's files.
func Serve(ctx context.Context, o ServeOptions) error {
	h, err := openHost(o.Host)
	if err != nil {
		return err
	}
	booted := h.hasSystemd()
	h.close()
	if booted {
		o.Log.Info("the host has systemd: its service serves, and this container has nothing to do")
		<-ctx.Done()
		return nil
	}
	o.Log.Warn("the host has no systemd: serving from this pod; when it ends, containers have the kernel's files until the next one serves", "mountpoint", o.Dir)
	if err := daemon.Unmount(o.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{"serve", "--attach", "all"}, strings.Fields(o.Flags)...)
	cmd := exec.Command(self, append(args, o.Dir)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err = o.attend(ctx, ended, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
	// Nobody serves any more.
	ctx = context.WithoutCancel(ctx)
	err = errors.Join(err, daemon.Unmount(o.Dir), o.Clear(ctx))
	if rmErr := os.Remove(o.Dir); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// attend heals as soon as the daemon serves, stops it when ctx ends, and returns when it has
// ended.
func (o *ServeOptions) attend(ctx context.Context, ended <-chan error, stop func()) error {
	healed := make(chan struct{})
	healing, cancel := context.WithCancel(ctx)
	go func() {
		defer close(healed)
		o.healWhenReady(healing)
	}()
	defer func() { cancel(); <-healed }()
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("the view was unmounted")
		}
		return fmt.Errorf("the daemon has ended: %w", err)
	case <-ctx.Done():
		stop()
		return <-ended
	}
}

// healWhenReady waits until the daemon serves, and heals.
func (o *ServeOptions) healWhenReady(ctx context.Context) {
	for {
		if _, err := daemon.CheckView(o.Dir); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(readyPause):
		}
	}
	if err := o.Heal(ctx); err != nil && ctx.Err() == nil {
		o.Log.Warn("some containers may still have files of a dead daemon", "err", err)
	}
}
