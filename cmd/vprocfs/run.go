package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"vprocfs/internal/daemon"
	"vprocfs/internal/sandbox"
)

func runCommand() *command {
	log := daemon.LogOptions{Level: slog.LevelWarn}
	var view daemon.ViewOptions
	var o sandbox.Options
	o.Serve = func() (*os.File, error) {
		return daemon.ServeDetached(view, log.NewLogger(os.Stderr, false))
	}
	fl := newFlags("run")
	fl.SetInterspersed(false) // what follows CMD is CMD's
	fl.Var(&o.Limits.Memory, "memory", "memory limit, such as 512k, 256M, 1G or plain bytes")
	fl.Var(&o.Limits.CPUs, "cpus", "CPU time limit in CPUs, such as 1.5")
	fl.Var(&o.Limits.CPUSet, "cpuset", "CPUs to run on, such as 0-1,4")
	fl.StringVar(&o.Dir, "mount", "", "take the view from `DIR`, the mount point of a running daemon")
	addLogFlags(fl, &log)
	own := newFlags("view") // those that say what our own view shows
	addViewFlags(own, &view)
	fl.AddFlagSet(own)
	return &command{
		name:    "run",
		summary: "run a command in a throwaway container with its own view",
		usage:   "run [flags] -- CMD [ARGS...]",
		details: `The container has cgroups, a pid namespace and a mount namespace of its own; files
and network are the host's. The view is served by run itself, or by the daemon of
--mount. When CMD ends everything is removed, and its exit status is run's: 128 and
the signal's number where a signal ended it, 126 where CMD cannot be executed, 127
where it is not found.
`,
		flags: fl,
		run: func(_ context.Context, args []string) (err error) {
			if len(args) == 0 {
				return usageErrorf("missing command to run")
			}
			if o.Dir != "" {
				if names := changed(own, fl); len(names) > 0 {
					return usageErrorf("--mount has its view from a daemon: --%s has no effect", names[0])
				}
			}
			if err := checkView(&view); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return daemon.ErrNotRoot
			}
			if o.Dir != "" {
				if o.Dir, err = daemon.CheckView(o.Dir); err != nil {
					return err
				}
			}
			return sandbox.Run(o, args)
		},
	}
}

// changed names the flags of set that were given on the command line of parsed.
func changed(set, parsed *pflag.FlagSet) []string {
	var names []string
	set.VisitAll(func(f *pflag.Flag) {
		if parsed.Changed(f.Name) {
			names = append(names, f.Name)
		}
	})
	return names
}
