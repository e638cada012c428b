// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vprocfs/internal/inject"
)

// What the name of the wrapper runtime begins with: vprocfs-runc, and with --timens
// vprocfs-timens-runc.
const (
	wrapperPrefix = "vprocfs-"
	timensPrefix  = "timens-"
)

// wrapperFlags returns the flags of the verb runtime that the name of the program stands
// for. It returns nil if that is not the name of a wrapper runtime.
func wrapperFlags(name string) (flags []string) {
	name, ok := strings.CutPrefix(name, wrapperPrefix)
	runtime, timens := strings.CutPrefix(name, timensPrefix)
	if !ok || !slices.Contains(inject.Runtimes, runtime) {
		return nil
	}
	flags = []string{"--runtime", runtime}
	if timens {
		flags = append(flags, "--timens")
	}
	return flags
}

// failOpen is an error that no container may fail to start for: it is printed, and the
// exit status is 0.
type failOpen struct{ error }

// ExitStatus returns the exit status.
func (failOpen) ExitStatus() int { return 0 }

func hookCommand() *command {
	fl := newFlags("hook")
	dir := fl.String("mount", defaultMount, "`DIR` is the mount point of a running daemon")
	// A file that names a flag of another version must not keep containers from starting.
	fl.ParseErrorsAllowlist.UnknownFlags = true
	return &command{
		name:    "hook",
		summary: "attach the view to a container that starts; OCI runtimes run it",
		usage:   "hook [flags] <STATE",
		details: `For the stage createRuntime of OCI hooks: reads the state of the container from stdin
and mounts the files of the daemon at DIR in it, before its program starts. If that
fails, the container starts with the kernel's files: the exit status is always 0, and
the reason goes to stderr and to the system log. A container with the annotation
vprocfs.io/view=off is left alone.
`,
		flags: fl,
		run: func(ctx context.Context, _ []string) error {
			if err := inject.Hook(ctx, os.Stdin, *dir); err != nil {
				inject.Log("hook: " + strings.ReplaceAll(err.Error(), "\n", "; "))
				return failOpen{err}
			}
			return nil
		},
	}
}

func runtimeCommand() *command {
	var o inject.RuntimeOptions
	fl := newFlags("runtime")
	fl.SetInterspersed(false)
	fl.StringVar(&o.Dir, "mount", defaultMount, "`DIR` is the mount point of a running daemon")
	fl.StringVar(&o.Runtime, "runtime", "", "`NAME` or path of the real runtime (default: the first of runc and crun that is installed)")
	fl.BoolVar(&o.TimeNamespace, "timens", false, "give each container a time namespace whose clocks begin with it, so that sysinfo(2) and start times agree with the view (needs runc 1.2 or crun 1.21)")
	return &command{
		name:    "runtime",
		summary: "an OCI runtime that attaches the view, around runc or crun",
		usage:   "runtime [flags] -- ARGUMENTS",
		details: `Executes the real OCI runtime with ARGUMENTS. Before "start" it mounts the files of the
daemon at DIR in the container, whose program then sees nothing else; for "run" it adds
the hook to config.json. If that fails, it says so and the container starts with the
kernel's files. Under the name vprocfs-runc or vprocfs-crun, all arguments are those of
that runtime; vprocfs-timens-runc and vprocfs-timens-crun are the same with --timens.
`,
		flags: fl,
		run: func(ctx context.Context, args []string) error {
			var err error
			if o.Dir, err = filepath.Abs(o.Dir); err != nil {
				return err
			}
			return inject.Runtime(ctx, o, args, os.Stderr)
		},
	}
}
