package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
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
		summary: "show which container a process belongs to, and where its numbers come from",
		usage:   "explain --pid N [--json] [flags]",
		details: `Finds the container of process N as a daemon with the same flags does, and shows
what it found: the pid namespace, its init and how that was found, the control group
of each controller, the policy, and for each file which number comes from where: the
files of the control groups with their values, and which of several limits holds.
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
	for _, c := range e.Controllers {
		fmt.Fprintf(w, "%s\t", c.Name)
		switch {
		case c.Error != "":
			fmt.Fprintln(w, c.Error)
		case c.Root:
			fmt.Fprintf(w, "v%d %s, the root\n", c.Version, printable(c.Group))
		default:
			fmt.Fprintf(w, "v%d %s, in %s\n", c.Version, printable(c.Group), printable(c.Dir))
		}
	}
	for _, word := range e.Policy {
		fmt.Fprintf(w, "policy\t%s\n", printWord(word))
	}
	for _, word := range e.Unknown {
		fmt.Fprintf(w, "policy\t%s, unknown and ignored\n", printable(word))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i := range e.Files {
		if err := printFile(to, &e.Files[i]); err != nil {
			return err
		}
	}
	return nil
}

// printWord returns a word of a policy and who has it.
func printWord(w daemon.PolicyWord) string {
	return printable(fmt.Sprintf("%s=%s, set on %s", w.Key, w.Value, w.Dir))
}

// printFile prints where the numbers of a file come from.
func printFile(to io.Writer, f *daemon.FileExplanation) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s: ", f.Name)
	if f.Host != "" {
		fmt.Fprintf(w, "the host's: %s\n", f.Host)
	} else {
		fmt.Fprintln(w, "the container's")
	}
	for _, word := range f.Policy {
		fmt.Fprintf(w, "  policy\t%s\n", printWord(word))
	}
	for _, n := range f.Numbers {
		first := n.Name
		if n.Value != "" {
			first += " = " + n.Value
		}
		for _, s := range n.From {
			fmt.Fprintf(w, "  %s\t%s\n", printable(first), printable(printSource(s)))
			first = ""
		}
	}
	return w.Flush()
}

// printSource returns what a number comes from in words.
func printSource(s daemon.SourceExplanation) string {
	text := s.File
	if s.Key != "" {
		text += ", " + s.Key
	}
	switch {
	case s.Own:
		text += " of " + s.Group + ", its own"
	case s.Group != "":
		text += " of " + s.Group
	}
	if s.Value != "" {
		text += ": " + s.Value
	}
	if s.Limits {
		text += ", limits"
	}
	return text
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
