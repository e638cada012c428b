// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"vprocfs/internal/daemon"
	"vprocfs/internal/logqueue"
	"vprocfs/internal/sandbox"
	"vprocfs/internal/syscalls"
)

func runCommand() *command {
	log := daemon.LogOptions{Level: slog.LevelWarn}
	var view daemon.ViewOptions
	var o sandbox.Options
	output := logqueue.New(int(os.Stderr.Fd()))
	var served *daemon.Detached
	o.Serve = func() (_ *os.File, err error) {
		if served, err = daemon.ServeDetached(view, log.NewLogger(output, false)); err != nil {
			return nil, err
		}
		return served.Root, nil
	}
	var answer bool
	fl := newFlags("run")
	fl.SetInterspersed(false) // flags after CMD are arguments of CMD
	fl.Var(&o.Limits.Memory, "memory", "memory limit, such as 512k, 256M, 1G or plain bytes")
	fl.Var(&o.Limits.CPUs, "cpus", "CPU time limit in CPUs, such as 1.5")
	fl.Var(&o.Limits.CPUSet, "cpuset", "CPUs to run on, such as 0-1,4")
	fl.StringVar(&o.Dir, "mount", "", "take the view from the daemon at mount point `DIR`")
	addLogFlags(fl, &log)
	own := newFlags("view") // no effect with --mount
	addViewFlags(own, &view)
	fl.AddFlagSet(own)
	fl.BoolVar(&answer, "syscalls", false, "answer sysinfo(2) and sched_getaffinity(2) from the view too (Linux 5.9); with --mount the daemon must run with --syscalls")
	return &command{
		name:    "run",
		summary: "run a command in a throwaway container with its own view",
		usage:   "run [flags] -- CMD [ARGS...]",
		details: `The container has cgroups, a pid namespace and a mount namespace of its own; files
and network are the host's. run itself serves the view, or the daemon of --mount does.
When CMD ends, run removes everything and exits with the status of CMD: 128 plus the
number of the signal that ended it, 126 if CMD cannot be executed, 127 if it is not
found.
`,
		flags: fl,
		run: func(_ context.Context, args []string) (err error) {
			if len(args) == 0 {
				return usageErrorf("missing command to run")
			}
			if o.Dir != "" {
				if names := changed(own, fl); len(names) > 0 {
					return usageErrorf("--%s has no effect with --mount, whose daemon decides", names[0])
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
			if answer {
				if len(syscalls.Calls()) == 0 {
					return usageErrorf("--syscalls: no system call is answered on this machine")
				}
				o.Answer = func(listener int) { served.Answer(listener) }
				if o.Dir != "" {
					o.Answer, err = daemon.AnswerBy(o.Dir, log.NewLogger(output, false))
				}
				if err != nil {
					return err
				}
			}
			defer output.Flush(errorPatience)
			return sandbox.Run(o, args)
		},
	}
}

// changed returns the names of the flags of set that parsed was given.
func changed(set, parsed *pflag.FlagSet) []string {
	var names []string
	set.VisitAll(func(f *pflag.Flag) {
		if parsed.Changed(f.Name) {
			names = append(names, f.Name)
		}
	})
	return names
}
