// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// Exit statuses of vprocfs itself. `vprocfs run` passes on that of its command.
const (
	statusFailure = 1 // the work failed
	statusUsage   = 2 // the command line is wrong
)

// command is one verb of the command line.
type command struct {
	name    string // the verb itself
	summary string // its line in the help
	usage   string // its usage line, without "vprocfs"
	details string // further help; may be empty
	flags   *pflag.FlagSet
	hidden  bool // not in the help, and its errors are not prefixed with its name
	// usageFails makes the exit status of a wrong command line statusFailure.
	usageFails bool
	run        func(ctx context.Context, args []string) error
}

// usageError is the error of a wrong command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// ExitStatus returns the exit status.
func (usageError) ExitStatus() int { return statusUsage }

// usageErrorf returns a usageError.
func usageErrorf(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// errQuiet is a failure with nothing to print.
var errQuiet = errors.New("")

// exitStatus returns the exit status of the process for what dispatch returned.
func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	type exiter interface {
		error
		ExitStatus() int
	}
	if e, ok := errors.AsType[exiter](err); ok {
		return e.ExitStatus()
	}
	return statusFailure
}

// newFlags returns a flag set that prints nothing.
func newFlags(name string) *pflag.FlagSet {
	fl := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fl.SortFlags = false
	fl.SetOutput(io.Discard)
	fl.Usage = func() {}
	return fl
}

// dispatch runs the verb that args begin with, or serve if they begin with none:
// `vprocfs MOUNTPOINT`. Help goes to stdout.
func dispatch(ctx context.Context, cmds []*command, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return usageErrorf("missing mount point or command; see `vprocfs help`")
	}
	switch args[0] {
	case "-h", "--help":
		return printHelp(stdout, cmds)
	case "help":
		if len(args) == 1 || args[1] == "help" || args[1] == "-h" || args[1] == "--help" {
			return printHelp(stdout, cmds)
		}
		c := find(cmds, args[1])
		if c == nil {
			return usageErrorf("help %s: no such command; see `vprocfs help`", args[1])
		}
		return printCommandHelp(stdout, c)
	case "--version":
		args = append([]string{"version"}, args[1:]...)
	}
	if c := find(cmds, args[0]); c != nil {
		return runCommandLine(ctx, c, args[1:], stdout)
	}
	if len(args) > 1 && !strings.HasPrefix(args[0], "-") && !strings.Contains(args[0], "/") {
		return usageErrorf("%s: no such command; see `vprocfs help`", args[0])
	}
	return runCommandLine(ctx, find(cmds, "serve"), args, stdout)
}

func find(cmds []*command, name string) *command {
	for _, c := range cmds {
		if c.name == name {
			return c
		}
	}
	return nil
}

func runCommandLine(ctx context.Context, c *command, args []string, stdout io.Writer) error {
	err := c.flags.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		return printCommandHelp(stdout, c)
	}
	if err == nil {
		err = c.run(ctx, c.flags.Args())
	} else {
		err = usageError{err}
	}
	if err == nil || err.Error() == "" || c.hidden {
		return err
	}
	usage, ok := errors.AsType[usageError](err)
	switch {
	case ok && c.usageFails:
		return fmt.Errorf("%s: %w; see `vprocfs help %s`", c.name, usage.error, c.name)
	case ok:
		return usageErrorf("%s: %w; see `vprocfs help %s`", c.name, err, c.name)
	}
	return fmt.Errorf("%s: %w", c.name, err)
}

// The texts of the help that the manual page has too.
const (
	intro = `vprocfs shows containers their own /proc: uptime, memory and CPUs as the
container has them, and not the host's.
`
	implied  = "vprocfs MOUNTPOINT is the same as vprocfs serve MOUNTPOINT.\n"
	statuses = `0 done, 1 failed, 2 wrong command line; run passes on the status of
its command.
`
)

func printHelp(w io.Writer, cmds []*command) error {
	var b strings.Builder
	b.WriteString(intro + `
Usage:
  vprocfs MOUNTPOINT         the same as vprocfs serve MOUNTPOINT
  vprocfs COMMAND [flags] [arguments]

Commands:
`)
	for _, c := range cmds {
		if !c.hidden {
			fmt.Fprintf(&b, "  %-10s %s\n", c.name, c.summary)
		}
	}
	fmt.Fprintf(&b, "  %-10s %s\n", "help", "show help for a command: vprocfs help COMMAND")
	b.WriteString("\nExit status: " + statuses)
	_, err := io.WriteString(w, b.String())
	return err
}

func printCommandHelp(w io.Writer, c *command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "vprocfs %s: %s\n\nUsage:\n  vprocfs %s\n", c.name, c.summary, c.usage)
	if c.details != "" {
		b.WriteString("\n" + c.details)
	}
	if c.flags.HasAvailableFlags() {
		b.WriteString("\nFlags:\n" + c.flags.FlagUsages())
	}
	for i, e := range examples(c.name) {
		if i == 0 {
			b.WriteString("\nExamples:\n")
		}
		fmt.Fprintf(&b, "  %s    # %s\n", e.Command, e.Does)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
