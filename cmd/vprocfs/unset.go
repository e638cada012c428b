// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"vprocfs/internal/daemon"
)

func unsetCommand() *command {
	var t daemon.PolicyTarget
	fl := newFlags("unset")
	addPolicyFlags(fl, &t)
	return &command{
		name:    "unset",
		summary: "remove words from a container's policy",
		usage:   "unset {--pid N | --cgroup DIR} [KEY...]",
		details: `Removes the words with the given keys, such as cpu or view, from the policy of a
container, and all words if no key is given. Words of control groups above it still hold.
` + policyWords,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if err := checkPolicyFlags(fl, &t); err != nil {
				return err
			}
			return daemon.UnsetPolicy(t, args)
		},
	}
}
