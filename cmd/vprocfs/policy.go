// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"vprocfs/internal/daemon"
)

// policyWords is the help on the words of a policy.
const policyWords = `
Words of a policy:
  view=on|off               off: the host's files
  cpu=quota|cpuset|request  CPUs to show: as many as quota and cpuset allow; the
                            cpuset; or, if there is no quota, as many as requested
  swap=on|off               off: no swap
  loadavg=on|host           load averages: the container's or the host's
  files=NAME,NAME,...       show these files (meminfo, cpu/online) and directories
                            (cpu, pressure), and the host's instead of all others

A policy is an extended attribute of the control group's directory. It lives as long as
the control group, holds for all containers in it and below, and takes precedence over
the daemon's flags. If several control groups above a container have the same word, the
nearest counts.
`

// addPolicyFlags adds the flags that say whose policy is meant.
func addPolicyFlags(fl *pflag.FlagSet, t *daemon.PolicyTarget) {
	fl.IntVar(&t.PID, "pid", 0, "a process of the container, as a pid of the host")
	fl.StringVar(&t.Cgroup, "cgroup", "", "directory of a control group, instead of --pid")
	fl.Var(&t.View.Policy, "cgroup-source", "with --pid: whose control group is the container's, as for serve: auto, init or caller")
}

// checkPolicyFlags returns an error if the flags do not say whose policy is meant.
func checkPolicyFlags(fl *pflag.FlagSet, t *daemon.PolicyTarget) error {
	switch {
	case fl.Changed("pid") && fl.Changed("cgroup"):
		return usageErrorf("--pid and --cgroup exclude each other")
	case fl.Changed("cgroup"):
		if t.Cgroup == "" {
			return usageErrorf("invalid argument %q for --cgroup: must be a directory", "")
		}
	case !fl.Changed("pid"):
		return usageErrorf("missing --pid or --cgroup")
	case t.PID <= 0:
		return usageErrorf("invalid argument %q for --pid: must be a pid", fmt.Sprint(t.PID))
	}
	return nil
}
