// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"vprocfs/internal/daemon"
)

func setCommand() *command {
	var t daemon.PolicyTarget
	fl := newFlags("set")
	addPolicyFlags(fl, &t)
	return &command{
		name:    "set",
		summary: "set words of a container's policy",
		usage:   "set {--pid N | --cgroup DIR} WORD...",
		details: `Sets words in the policy of a container. They hold from the next read at offset 0 on.
Other words of the policy stay.
` + policyWords,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if err := checkPolicyFlags(fl, &t); err != nil {
				return err
			}
			if len(args) == 0 {
				return usageErrorf("missing words, such as cpu=request")
			}
			return daemon.SetPolicy(t, args)
		},
	}
}
