// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"vprocfs/internal/daemon"
	"vprocfs/internal/report"
)

type explainOptions struct {
	pid   int
	mount string
	json  bool
	view  daemon.ViewOptions
}

func explainCommand() *command {
	var o explainOptions
	fl := newFlags("explain")
	fl.IntVar(&o.pid, "pid", 0, "a process or thread of the container, as a pid of the host")
	fl.BoolVar(&o.json, "json", false, "print JSON")
	addMountFlag(fl, &o.mount)
	addViewFlags(fl, &o.view)
	return &command{
		name:    "explain",
		summary: "show which container a process belongs to, and where its numbers come from",
		usage:   "explain --pid N [--json] [flags]",
		details: `Asks the daemon for the container of process N, and shows what it found: the pid
namespace, its init and how that was found, the control group of each controller, the
policy, and for each file which number comes from where: the files of the control groups
with their values, and which of several limits holds. If no daemon answers, or with flags
that are those of serve, it works that out itself as a daemon with the same flags would.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if err := noArguments(args); err != nil {
				return err
			}
			if !fl.Changed("pid") {
				return usageErrorf("missing --pid")
			}
			if o.pid <= 0 {
				return usageErrorf("invalid argument %q for --pid: must be a pid", fmt.Sprint(o.pid))
			}
			if err := checkView(&o.view); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return daemon.ErrNotRoot
			}
			return explain(o, changesView(fl), os.Stdout)
		},
	}
}

// changesView reports whether a flag of addViewFlags is set.
func changesView(fl *pflag.FlagSet) (changes bool) {
	fl.Visit(func(f *pflag.Flag) { changes = changes || f.Name != "pid" && f.Name != "json" && f.Name != "mount" })
	return changes
}

func explain(o explainOptions, itself bool, w io.Writer) error {
	e, why := (*daemon.Explanation)(nil), errors.New("flags of the view are set")
	if !itself {
		e, why = report.AskExplain(o.mount, o.pid)
	}
	if why != nil {
		var err error
		if e, err = daemon.Explain(o.view, o.pid); err != nil {
			return fmt.Errorf("pid %d: %w", o.pid, err)
		}
	}
	if o.json {
		return report.ExplanationJSON(w, e, why)
	}
	return report.Explanation(w, e, why)
}
