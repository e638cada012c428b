// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"

	"github.com/spf13/pflag"

	"vprocfs/internal/report"
)

// addMountFlag adds the flag that says which daemon is meant.
func addMountFlag(fl *pflag.FlagSet, dir *string) {
	fl.StringVar(dir, "mount", "", "mount point of the daemon (default "+report.DefaultMount+", or the only one that runs)")
}

// addListFlags adds the flags that say which containers are listed, in which order.
func addListFlags(fl *pflag.FlagSet, o *report.ListOptions) {
	fl.StringVar(&o.Sort, "sort", "reads/s", "`COLUMN` to sort by: "+report.SortColumns())
	fl.BoolVar(&o.Reverse, "reverse", false, "sort the other way round")
	fl.StringVar(&o.Filter, "filter", "", "only containers whose name or control group contains `TEXT`")
}

// noArguments returns an error if there are arguments.
func noArguments(args []string) error {
	if len(args) > 0 {
		return usageErrorf("unexpected argument %q", args[0])
	}
	return nil
}

func statusCommand(stdout io.Writer) *command {
	var dir string
	var asJSON bool
	fl := newFlags("status")
	addMountFlag(fl, &dir)
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return &command{
		name:    "status",
		summary: "show whether the daemon is well; the exit status says so too",
		usage:   "status [--mount DIR] [--json]",
		details: `Shows what the daemon is, what it has done, and how much of its limits is used. The
exit status is 0 if all is well, and 1 if the daemon does not answer, no worker serves,
or a limit is nearly reached.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if err := noArguments(args); err != nil {
				return err
			}
			d, err := report.Find(dir)
			if err != nil {
				return err
			}
			s, err := d.Status()
			if err != nil {
				return err
			}
			print := s.Print
			if asJSON {
				print = func(w io.Writer) error { return report.JSON(w, s) }
			}
			if err := print(stdout); err != nil {
				return err
			}
			return s.Err()
		},
	}
}

func psCommand(stdout io.Writer) *command {
	var dir string
	var o report.ListOptions
	fl := newFlags("ps")
	addMountFlag(fl, &dir)
	fl.BoolVar(&o.JSON, "json", false, "print JSON")
	addListFlags(fl, &o)
	return &command{
		name:    "ps",
		summary: "list the containers, what they are shown, and how much they read",
		usage:   "ps [flags]",
		details: `Lists the containers that have read a file, those that read most first.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if err := noArguments(args); err != nil {
				return err
			}
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			d, err := report.Find(dir)
			if err != nil {
				return err
			}
			return d.List(stdout, o)
		},
	}
}

func logLevelCommand() *command {
	var dir string
	fl := newFlags("log-level")
	addMountFlag(fl, &dir)
	return &command{
		name:    "log-level",
		summary: "change the daemon's log level while it runs",
		usage:   "log-level [--mount DIR] debug|info|warn|error",
		flags:   fl,
		run: func(_ context.Context, args []string) error {
			if len(args) != 1 {
				return usageErrorf("want one level")
			}
			d, err := report.Find(dir)
			if err != nil {
				return err
			}
			return d.SetLogLevel(args[0])
		},
	}
}
