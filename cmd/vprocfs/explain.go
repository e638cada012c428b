package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"vprocfs/internal/daemon"
)

type explainOptions struct {
	pid  int
	json bool
	view daemon.ViewOptions
}

func explainCommand() *command {
	var o explainOptions
	fl := newFlags("explain")
	fl.IntVar(&o.pid, "pid", 0, "a process or thread of the container, as a pid of the host")
	fl.BoolVar(&o.json, "json", false, "print JSON")
	addViewFlags(fl, &o.view)
	return &command{
		name:    "explain",
		summary: "show which container a process belongs to, and its limits",
		usage:   "explain --pid N [--json] [flags]",
		details: `Finds the container of process N as a daemon with the same flags does, and shows
what it found: the pid namespace, its init and how that was found, the control group
of each controller with the limits of each level, and the CPUs.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if len(args) > 0 {
				return usageErrorf("unexpected argument %q", args[0])
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
			return explain(o, os.Stdout)
		},
	}
}

func explain(o explainOptions, w io.Writer) error {
	e, err := daemon.Explain(o.view, o.pid)
	if err != nil {
		return fmt.Errorf("pid %d: %w", o.pid, err)
	}
	if o.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(e)
	}
	return printExplanation(w, e)
}

func printExplanation(to io.Writer, e *daemon.Explanation) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "process\t%d\n", e.PID)
	fmt.Fprintf(w, "pid namespace\t%d", e.Namespace)
	if e.NamespaceID != 0 {
		fmt.Fprintf(w, " (id %d)", e.NamespaceID)
	}
	if e.Host {
		fmt.Fprint(w, ", the daemon's own: only the process's own control groups count")
	}
	fmt.Fprintf(w, "\ninit\t%d, found by %s in %.1f us, again by %s in %.1f us\n",
		e.Init, e.Found.By, e.Found.Microseconds, e.Again.By, e.Again.Microseconds)
	for _, f := range e.Files {
		what := "the container's"
		if f.Host != "" {
			what = "the host's: " + f.Host
		}
		fmt.Fprintf(w, "%s\t%s\n", f.Name, what)
	}
	if c := e.CPUs; c.Visible != "" {
		fmt.Fprintf(w, "CPUs\t%s", c.Visible)
		if c.Effective != "" {
			fmt.Fprintf(w, ", of the cpuset %s", c.Effective)
		}
		if c.Quota > 0 {
			fmt.Fprintf(w, ", by a quota of at most %d", c.Quota)
		}
		fmt.Fprintln(w)
	}
	for _, c := range e.Controllers {
		fmt.Fprintf(w, "%s\t", c.Name)
		if c.Error != "" {
			fmt.Fprintln(w, c.Error)
			continue
		}
		fmt.Fprintf(w, "v%d %s\n", c.Version, printable(c.Group))
		for _, l := range c.Levels {
			for _, name := range slices.Sorted(maps.Keys(l.Limits)) {
				fmt.Fprintf(w, "\t  %s/%s\t%s\n", printable(l.Dir), name, l.Limits[name])
			}
		}
	}
	return w.Flush()
}

// printable makes a name that a container chose safe to print on a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
