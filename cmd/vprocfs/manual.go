// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"vprocfs/internal/companion"
	"vprocfs/internal/manual"
)

// manualVerb writes the manual pages and the completions for shells. The packages are
// made with it.
const manualVerb = "manual"

func manualCommand(stdout io.Writer) *command {
	fl := newFlags(manualVerb)
	version := fl.String("release", "", "version to put into the pages")
	return &command{
		name:   manualVerb,
		flags:  fl,
		hidden: true,
		run: func(_ context.Context, args []string) error {
			if len(args) != 1 {
				return usageErrorf("%s: want one of vprocfs.1, vprocfs-export.1, vprocfs-policy.5, bash, zsh or fish", manualVerb)
			}
			p := program(*version)
			switch args[0] {
			case "vprocfs.1":
				return p.Man(stdout)
			case "vprocfs-export.1":
				return companionPage(stdout, exportCommand(), companion.ExportName, *version)
			case "vprocfs-policy.5":
				return manual.Page(stdout, "vprocfs-policy", 5, *version, "what a container is shown", strings.TrimPrefix(policyWords, "\n"),
					[]string{"vprocfs(1)", "cgroups(7)", "xattr(7)"})
			case "bash":
				return p.Bash(stdout)
			case "zsh":
				return p.Zsh(stdout)
			case "fish":
				return p.Fish(stdout)
			}
			return usageErrorf("%s: %q: no such page", manualVerb, args[0])
		},
	}
}

// program is what the pages are made of.
func program(version string) *manual.Program {
	p := &manual.Program{
		Name: "vprocfs", Summary: "containers see their own /proc", Version: version,
		Description: intro + "\n" + implied,
		ExitStatus:  statuses,
		SeeAlso:     []string{"vprocfs-policy(5)", "proc(5)", "cgroups(7)", "pid_namespaces(7)"},
	}
	for _, c := range commands() {
		if !c.hidden {
			p.Verbs = append(p.Verbs, manual.Verb{
				Name: c.name, Summary: c.summary, Usage: c.usage, Details: c.details, Examples: examples(c.name), Flags: c.flags,
			})
		}
	}
	return p
}

// companionPage writes the manual page of a program that c starts.
func companionPage(w io.Writer, c *command, name, version string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nUsage:\n\n  %s [flags]\n\nFlags:\n\n%s\nExamples:\n\n", c.details, name, c.flags.FlagUsages())
	for _, e := range examples(c.name) {
		fmt.Fprintf(&b, "  %s    # %s\n", e.Command, e.Does)
	}
	return manual.Page(w, name, 1, version, c.summary, b.String(), []string{"vprocfs(1)"})
}
