// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vprocfs/initpid"
	"vprocfs/internal/attach"
	"vprocfs/internal/daemon"
	"vprocfs/internal/report"
)

// defaultMount is the default mount point of attach and heal.
const defaultMount = "/var/lib/vprocfs"

func attachCommand(stdout io.Writer) *command {
	var o attach.Options
	fl := newFlags("attach")
	pid := fl.Int("pid", 0, "any process of the container, by its pid on the host")
	fl.StringArrayVar(&o.Files, "file", nil, "attach only `FILE`, such as meminfo; may be repeated")
	fl.StringVar(&o.Dir, "mount", defaultMount, "`DIR` is the mount point of a running daemon")
	fl.BoolVar(&o.IDMap, "idmap", false, "show the files as root's in a container with a user namespace, where they are nobody's otherwise; the daemon needs serve --idmap")
	fl.BoolVar(&o.Replace, "replace", false, "also replace living mounts of LXCFS and of other vprocfs daemons")
	return &command{
		name:    "attach",
		summary: "show the view in a container that is already running",
		usage:   "attach [flags] --pid N",
		details: `Mounts the files of the daemon at DIR over those of the same name in the container's
/proc, and /sys/devices/system/cpu and node. It keeps files that are attached, and replaces
those of a dead daemon. It touches no process of the container. If a file cannot be
attached, it prints the reason, attaches the others, and exits with status 1.
`,
		flags: fl,
		run: func(ctx context.Context, args []string) error {
			if err := noArguments(args); err != nil {
				return err
			}
			if *pid <= 0 {
				return usageErrorf("--pid must be that of a process")
			}
			for _, f := range o.Files {
				if _, err := attach.ParseFile(f); err != nil {
					return usageErrorf("invalid argument for --file: %w", err)
				}
			}
			if os.Geteuid() != 0 {
				return daemon.ErrNotRoot
			}
			var err error
			if o.Dir, err = filepath.Abs(o.Dir); err != nil {
				return err
			}
			results, err := attach.Attach(ctx, *pid, o)
			failed := printResults(stdout, results)
			if err != nil {
				return fmt.Errorf("pid %d: %w", *pid, err)
			}
			if failed > 0 {
				return fmt.Errorf("pid %d: %d of %d files not attached", *pid, failed, len(results))
			}
			return nil
		},
	}
}

// printResults prints a line for each file and returns how many failed.
func printResults(w io.Writer, results []attach.Result) (failed int) {
	for _, r := range results {
		if r.Err != nil {
			failed++
			fmt.Fprintln(w, report.Printable(fmt.Sprintf("%s: %s: %v", r.Target, r.State, r.Err)))
			continue
		}
		fmt.Fprintln(w, report.Printable(fmt.Sprintf("%s: %s", r.Target, r.State)))
	}
	return failed
}

func healCommand(stdout io.Writer) *command {
	fl := newFlags("heal")
	var o attach.HealOptions
	fl.StringVar(&o.Dir, "mount", defaultMount, "`DIR` is the mount point of a running daemon")
	fl.BoolVar(&o.Remove, "remove", false, "remove the files of dead daemons, so that the kernel's files show; no daemon is needed")
	fl.BoolVarP(&o.DryRun, "dry-run", "n", false, "change nothing, print what would be done")
	return &command{
		name:    "heal",
		summary: "replace the files of dead daemons in all containers",
		usage:   "heal [flags]",
		details: `Finds all running containers whose /proc or /sys has files of a dead vprocfs or LXCFS
("Transport endpoint is not connected") and replaces these by the files of the daemon
at DIR. It touches no process of the containers. It prints a line for each mount
namespace that it changes.
`,
		flags: fl,
		run: func(ctx context.Context, args []string) error {
			if err := noArguments(args); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return daemon.ErrNotRoot
			}
			var err error
			if o.Dir, err = filepath.Abs(o.Dir); err != nil {
				return err
			}
			return heal(ctx, o, stdout)
		},
	}
}

// heal runs attach.Heal and prints a line for each mount namespace.
func heal(ctx context.Context, o attach.HealOptions, stdout io.Writer) error {
	resolver, err := initpid.New(initpid.Config{Method: initpid.Parents})
	if err != nil {
		return err
	}
	defer resolver.Close()
	o.Owner = resolver.Outermost
	failed := 0
	err = attach.Heal(ctx, o, func(n attach.Namespace) {
		line, ok := healLine(n, o.DryRun)
		fmt.Fprintln(stdout, report.Printable(line))
		if !ok {
			failed++
		}
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d mount namespaces not healed", failed)
	}
	return err
}

// healLine returns the line for a namespace, and whether nothing failed in it.
func healLine(n attach.Namespace, dryRun bool) (line string, ok bool) {
	var failed []string
	done := make(map[attach.State]string)
	for _, r := range n.Results {
		if r.Err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", r.Target, r.Err))
		} else {
			done[r.State] += " " + r.Target
		}
	}
	if n.Err != nil {
		failed = append(failed, n.Err.Error())
	}
	would := ""
	if dryRun {
		would = "would be "
	}
	line = fmt.Sprintf("mnt:[%d] pid %d:", n.ID, n.PID)
	for _, state := range slices.Sorted(maps.Keys(done)) {
		line += " " + would + string(state) + done[state]
	}
	if len(failed) > 0 {
		line += " failed: " + strings.Join(failed, "; ")
	}
	// One line, even if a name has a newline.
	return strings.ReplaceAll(line, "\n", `\n`), len(failed) == 0
}
