// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"

	"vprocfs/internal/daemon"
	"vprocfs/internal/report"
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
			if err := noArguments(args); err != nil {
				return err
			}
			if err := checkPolicyFlags(fl, &t); err != nil {
				return err
			}
			words, unknown, err := daemon.Policy(t)
			if err != nil {
				return err
			}
			if asJSON {
				return report.PolicyJSON(stdout, words, unknown)
			}
			return report.Policy(stdout, words, unknown)
		},
	}
}
