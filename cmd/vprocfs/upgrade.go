package main

import (
	"context"
	"fmt"
	"os"

	"vprocfs/fs"
	"vprocfs/internal/supervise"
)

func upgradeCommand() *command {
	fl := newFlags("upgrade")
	return &command{
		name:    "upgrade",
		summary: "have the daemon at MOUNTPOINT become the binary that is on disk now",
		usage:   "upgrade MOUNTPOINT",
		details: `Asks the daemon to put the binary to work that is now at the path it was started
from, and waits until it has. No reader notices. A binary that does not start, or
fails its self-test, leaves the old one in charge; the exit status is 1 then, and the
error says why. SIGUSR1 to the daemon asks for the same.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if len(args) == 0 {
				return usageErrorf("missing mount point")
			}
			if len(args) > 1 {
				return usageErrorf("unexpected argument %q after the mount point", args[1])
			}
			return upgrade(args[0])
		},
	}
}

func upgrade(dir string) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	path, err := resolve(dir)
	if err != nil {
		return err
	}
	dev, err := fs.DevOf(path)
	if err != nil {
		return err
	}
	if dev == 0 {
		return fmt.Errorf("%s: nothing is mounted there", path)
	}
	return supervise.AskUpgrade(socketName(dev))
}
