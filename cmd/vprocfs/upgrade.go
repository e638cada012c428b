package main

import (
	"context"

	"vprocfs/internal/daemon"
)

func upgradeCommand() *command {
	return &command{
		name:    "upgrade",
		summary: "have the daemon at MOUNTPOINT become the binary that is on disk now",
		usage:   "upgrade MOUNTPOINT",
		details: `Asks the daemon to put the binary to work that is now at the path it was started
from, and waits until it has. No reader notices. A binary that does not start, or
fails its self-test, leaves the old one in charge; the exit status is 1 then, and the
error says why. SIGUSR1 to the daemon asks for the same.
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
