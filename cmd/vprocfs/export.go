// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"vprocfs/internal/companion"
)

func exportCommand() *command {
	var o companion.Export
	fl := newFlags("export")
	o.AddFlags(fl)
	return &command{
		name:    "export",
		summary: "answer Prometheus' scrapes with the daemon's metrics",
		usage:   "export [flags]",
		details: `Asks the control socket at each scrape: give the daemon --control-group GROUP, and run
this as a member of GROUP.

It is a program of its own, ` + companion.ExportName + `, in the directory of vprocfs or in PATH: the
daemon has no network port, and no library for one. The packages have it apart.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if err := noArguments(args); err != nil {
				return err
			}
			if err := o.Check(); err != nil {
				return usageError{err}
			}
			return companion.Exec(companion.ExportName, fl)
		},
	}
}
