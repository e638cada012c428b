// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"

	"vprocfs/internal/daemon"
	"vprocfs/internal/inject/watch"
	"vprocfs/internal/syscalls"
)

// maxMaxRate is more than any host can read.
const maxMaxRate = 1_000_000_000

func serveCommand() *command {
	var o daemon.Options
	fl := newFlags("serve")
	addViewFlags(fl, &o.View)
	fl.DurationVar(&o.MaxOutage, "max-outage", daemon.DefaultMaxOutage, "how long readers may wait while no worker runs; then they get errors")
	fl.BoolVar(&o.KeepMount, "keep-mount", os.Getenv("FDSTORE") != "", "do not unmount when stopped: systemd keeps the descriptors for the next start")
	fl.Var(&choice{words: [2]string{"none", "all"}, second: &o.Attach}, "attach", "containers to attach when they start, and those that run: all or none")
	fl.StringArrayVar(&o.Watch.Attach, "attach-cgroup", nil, "with --attach all, also attach what is in the cgroups that `PATTERN` matches, if it has a mount namespace and a /proc of its own; may be repeated")
	fl.StringArrayVar(&o.Watch.Never, "attach-not-cgroup", nil, "with --attach all, never attach what is in the cgroups that `PATTERN` matches; may be repeated")
	fl.BoolVar(&o.Syscalls, "syscalls", false, "answer sysinfo(2) and sched_getaffinity(2) of containers whose runtime asks for it, from the view too (Linux 5.9)")
	fl.IntVar(&o.View.MaxRate, "max-rate", 0, "delay the reads of a container that reads more than `N` files a second, with all containers in it; 0 delays none")
	fl.StringVar(&o.ControlGroup, "control-group", "", "`GROUP` whose members may ask status, ps and explain; upgrade and log-level are root's")
	fl.BoolVar(&o.Mount.IDMap, "idmap", false, "allow idmapped mounts of the view, as pods with user namespaces make them of CDI mounts; each open costs one request more (Linux 6.12)")
	fl.Var(unixSocket{&o.DebugListen}, "debug-listen", "answer root at `unix:PATH` with profiles and execution traces of the worker")
	addLogFlags(fl, &o.Log)
	return &command{
		name:    "serve",
		summary: "serve the view at MOUNTPOINT until a signal arrives",
		usage:   "serve [flags] MOUNTPOINT",
		details: `Stays in the foreground and logs to stderr. SIGTERM, SIGINT and SIGHUP unmount the
view and end it; a second one ends it at once. SIGUSR1 replaces it by the binary that
is now on disk (see upgrade). SIGUSR2 switches to the host's files and back. Bind the
files of MOUNTPOINT/proc over those of the same name in a container's /proc, and
MOUNTPOINT/sys/devices/system/cpu and node over its /sys/devices/system/cpu and node.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			dir, err := mountPoint(args)
			if err != nil {
				return err
			}
			if o.MaxOutage <= 0 {
				return usageErrorf("invalid argument %q for --max-outage: must be more than 0", o.MaxOutage)
			}
			if o.View.MaxRate < 0 || o.View.MaxRate > maxMaxRate {
				return usageErrorf("invalid argument \"%d\" for --max-rate: must be from 0 to %d", o.View.MaxRate, maxMaxRate)
			}
			if err := checkView(&o.View); err != nil {
				return err
			}
			if o.Syscalls && len(syscalls.Calls()) == 0 {
				return usageErrorf("--syscalls: no system call is answered on this machine")
			}
			if err := checkWatch(&o); err != nil {
				return err
			}
			return daemon.Serve(o, dir)
		},
	}
}

// checkWatch returns an error if a flag about attaching is invalid.
func checkWatch(o *daemon.Options) error {
	for _, f := range []struct {
		name     string
		patterns []string
	}{{"--attach-cgroup", o.Watch.Attach}, {"--attach-not-cgroup", o.Watch.Never}} {
		if len(f.patterns) > 0 && !o.Attach {
			return usageErrorf("%s needs --attach all", f.name)
		}
		for _, p := range f.patterns {
			if err := watch.CheckPattern(p); err != nil {
				return usageErrorf("invalid argument for %s: %w", f.name, err)
			}
		}
	}
	return nil
}

// mountPoint returns the only argument of a verb that takes a mount point.
func mountPoint(args []string) (string, error) {
	if len(args) == 0 {
		return "", usageErrorf("missing mount point")
	}
	if len(args) > 1 {
		return "", usageErrorf("unexpected argument %q after the mount point", args[1])
	}
	return args[0], nil
}
