// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"vprocfs/internal/daemon"
)

func upgradeCommand() *command {
	return &command{
		name:    "upgrade",
		summary: "replace the daemon at MOUNTPOINT by the binary that is now on disk",
		usage:   "upgrade MOUNTPOINT",
		details: `Asks the daemon to run the binary that is now at the path it was started from, and
waits until it does. No reader notices. If the new binary does not start or fails its
self-test, the old one stays, and the exit status is 1. SIGUSR1 to the daemon does the
same.
`,
		flags: newFlags("upgrade"),
		run: func(_ context.Context, args []string) error {
			dir, err := mountPoint(args)
			if err != nil {
				return err
			}
			return daemon.Upgrade(dir)
		},
	}
}
