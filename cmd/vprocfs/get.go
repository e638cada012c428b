package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"vprocfs/internal/daemon"
)

func getCommand(stdout io.Writer) *command {
	var t daemon.PolicyTarget
	var asJSON bool
	fl := newFlags("get")
	addPolicyFlags(fl, &t)
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return &command{
		name:    "get",
		summary: "show the policy of a container",
		usage:   "get {--pid N | --cgroup DIR} [--json]",
		details: `Prints the words that hold for a container, each with the control group that has it,
and nothing if there are none.
` + policyWords,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if len(args) > 0 {
				return usageErrorf("unexpected argument %q", args[0])
			}
			if err := checkPolicyFlags(fl, &t); err != nil {
				return err
			}
			words, unknown, err := daemon.Policy(t)
			if err != nil {
				return err
			}
			if asJSON {
				return printPolicyJSON(stdout, words, unknown)
			}
			return printPolicy(stdout, words, unknown)
		},
	}
}

// printPolicyJSON prints one object. Its lists are never null.
func printPolicyJSON(to io.Writer, words []daemon.PolicyWord, unknown []string) error {
	all := struct {
		Words   []daemon.PolicyWord `json:"words"`
		Unknown []string            `json:"unknown"`
	}{append([]daemon.PolicyWord{}, words...), append([]string{}, unknown...)}
	enc := json.NewEncoder(to)
	enc.SetIndent("", "  ")
	return enc.Encode(all)
}

func printPolicy(to io.Writer, words []daemon.PolicyWord, unknown []string) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, word := range words {
		fmt.Fprintf(w, "%s=%s\t%s\n", word.Key, printable(word.Value), printable(word.Dir))
	}
	for _, word := range unknown {
		fmt.Fprintf(w, "%s\tunknown, ignored\n", printable(word))
	}
	return w.Flush()
}
