// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"

	"vprocfs/internal/attach"
	"vprocfs/internal/daemon"
)

func unmountCommand(stdout io.Writer) *command {
	fl := newFlags("unmount")
	unit := fl.String("unless-restarting", "", "do nothing if systemd is about to start `UNIT` again; for ExecStopPost=")
	return &command{
		name:    "unmount",
		summary: "end the view that a stopped daemon has left at MOUNTPOINT",
		usage:   "unmount [flags] MOUNTPOINT",
		details: `A daemon that is stopped with --keep-mount leaves its mount, and readers wait for the
next start. This ends it: whoever waits gets an error, nothing is mounted at MOUNTPOINT
any more, and all containers show the kernel's files. It prints a line for each mount
namespace that it changes. It is an error if the daemon still runs.
`,
		flags: fl,
		run: func(ctx context.Context, args []string) error {
			dir, err := mountPoint(args)
			if err != nil {
				return err
			}
			if *unit != "" {
				again, err := daemon.StartsAgain(ctx, *unit)
				if err != nil || again {
					return err
				}
			}
			if err := daemon.Unmount(dir); err != nil {
				return err
			}
			return heal(ctx, attach.HealOptions{Dir: dir, Remove: true}, stdout)
		},
	}
}
