// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"vprocfs/internal/daemon"
)

// AskExplain asks the daemon at dir, see Find, for the container of process pid.
func AskExplain(dir string, pid int) (*daemon.Explanation, error) {
	d, err := Find(dir)
	if err != nil {
		return nil, err
	}
	return d.Explain(pid)
}

// ExplanationJSON prints e, and who has answered: the daemon, or this command because of why.
func ExplanationJSON(w io.Writer, e *daemon.Explanation, why error) error {
	all := struct {
		*daemon.Explanation
		AnsweredBy string `json:"answered_by"`
		Because    string `json:"because,omitempty"`
	}{Explanation: e, AnsweredBy: "daemon"}
	if why != nil {
		all.AnsweredBy, all.Because = "this command", why.Error()
	}
	return JSON(w, all)
}

// Explanation prints which container a process is in, and where its numbers come from. If
// why is not nil, that is why no daemon was asked.
func Explanation(to io.Writer, e *daemon.Explanation, why error) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	if why != nil {
		fmt.Fprintf(w, "answered by\tthis command, not a daemon: %s\n", Printable(why.Error()))
	} else {
		fmt.Fprintln(w, "answered by\tthe daemon")
	}
	if k := e.Known; k != nil {
		open := "closed"
		if k.Open {
			open = "open"
		}
		fmt.Fprintf(w, "known\t%d reads, %.0f/s now, %d slow; its files are %s, %d with those beside it\n", k.Reads, k.PerSecond, k.Slow, open, k.OpenFiles)
		if k.Fallbacks > 0 {
			fmt.Fprintf(w, "fallbacks\t%d, the last: %s\n", k.Fallbacks, Printable(k.LastFallback))
		}
	}
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
			fmt.Fprintln(w, Printable(c.Error))
		case c.Root:
			fmt.Fprintf(w, "v%d %s, the root\n", c.Version, Printable(c.Group))
		default:
			fmt.Fprintf(w, "v%d %s, in %s\n", c.Version, Printable(c.Group), Printable(c.Dir))
		}
	}
	for _, word := range e.Policy {
		fmt.Fprintf(w, "policy\t%s\n", printWord(word))
	}
	for _, word := range e.Unknown {
		fmt.Fprintf(w, "policy\t%s, unknown and ignored\n", Printable(word))
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
	return Printable(fmt.Sprintf("%s=%s, set on %s", w.Key, w.Value, w.Dir))
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
			fmt.Fprintf(w, "  %s\t%s\n", Printable(first), Printable(printSource(s)))
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
