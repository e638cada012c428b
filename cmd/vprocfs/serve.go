package main

import (
	"context"
	"errors"
	"os"
	"time"

	"vprocfs/fs"
	"vprocfs/internal/supervise"
)

// serveOptions are what serve needs. Command lines of other programs fill them
// too.
type serveOptions struct {
	log    logOptions
	source sourceOptions
	mount  fs.MountOptions
	// pidFile is where to leave the pid; empty for nowhere.
	pidFile string
	// maxOutage is how long nobody may serve; 0 stands for the default.
	maxOutage time.Duration
	// keepMount leaves the mount at the end.
	keepMount bool
	// warnings are for the log, which is not there yet when the command line is
	// read.
	warnings []string
}

func serveCommand() *command {
	var o serveOptions
	fl := newFlags("serve")
	o.source.addFlags(fl)
	fl.DurationVar(&o.maxOutage, "max-outage", defaultMaxOutage, "how long readers may wait where no worker can be kept running; then they get errors")
	fl.BoolVar(&o.keepMount, "keep-mount", os.Getenv("FDSTORE") != "", "leave the mount at the end, for the next start, whose descriptors systemd keeps")
	o.log.addFlags(fl)
	return &command{
		name:    "serve",
		summary: "serve the view at MOUNTPOINT until a signal comes",
		usage:   "serve [flags] MOUNTPOINT",
		details: `Stays in the foreground and logs to stderr. SIGTERM, SIGINT and SIGHUP unmount and
end it; a second one ends it at once. SIGUSR1 has it become the binary that is on
disk now (see upgrade), SIGUSR2 switches to the host's own files and back. Bind the files of
MOUNTPOINT/proc over those of the same name in a container's /proc, and
MOUNTPOINT/sys/devices/system/cpu over its /sys/devices/system/cpu.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if len(args) == 0 {
				return usageErrorf("missing mount point")
			}
			if len(args) > 1 {
				return usageErrorf("unexpected argument %q after the mount point", args[1])
			}
			if o.maxOutage <= 0 {
				return usageErrorf("invalid argument %q for --max-outage: must be more than 0", o.maxOutage)
			}
			return serve(o, args[0])
		},
	}
}

// errNotRoot is the answer where only root can go on.
var errNotRoot = errors.New("must be run as root")

// serve is the holder of a mount at dir, or a worker that a holder has started.
func serve(o serveOptions, dir string) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if o.maxOutage == 0 {
		o.maxOutage = defaultMaxOutage
	}
	w, err := supervise.NewWorker()
	switch {
	case err != nil:
		return err
	case w != nil:
		return work(o, dir, w)
	}
	return hold(o, dir)
}
