// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"time"

	"vprocfs/internal/report"
	"vprocfs/internal/top"
)

func topCommand(stdout io.Writer) *command {
	var dir string
	var batch bool
	var o top.Options
	fl := newFlags("top")
	addMountFlag(fl, &dir)
	addListFlags(fl, &o.List)
	fl.DurationVarP(&o.Interval, "interval", "d", 2*time.Second, "time between two looks")
	fl.BoolVarP(&batch, "batch", "b", false, "print text, without a terminal")
	fl.IntVarP(&o.Count, "count", "n", 0, "end after `N` looks; 0 is never")
	fl.BoolVar(&o.Detail, "detail", false, "begin with the files of the first container")
	return &command{
		name:    "top",
		summary: "show the containers live: who reads, which files, and how long it takes",
		usage:   "top [flags]",
		details: `Shows what ps lists, again and again, in a terminal. Keys: q quits, / filters, < and >
choose the column to sort by, r turns the order round, Enter shows what one container
reads, by file, and h has all keys. No colours are used if $NO_COLOR is set. With --batch
it prints text, for a pipe.
`,
		flags: fl,
		run: func(ctx context.Context, args []string) error {
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
			if batch {
				return top.Batch(ctx, stdout, d, o)
			}
			return top.Run(ctx, d, o)
		},
	}
}
