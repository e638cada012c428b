// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"vprocfs/internal/daemon"
	"vprocfs/internal/sandbox"
	"vprocfs/internal/seccomp"
	"vprocfs/internal/syscalls"
)

// The verbs of this file are not in the help. Only vprocfs itself runs them.

// containerInitCommand is the init (pid 1) of a container of run.
func containerInitCommand() *command {
	fl := newFlags(sandbox.InitVerb)
	fl.SetInterspersed(false)
	dir := fl.String("mount", "", "mount point of the daemon; empty for the detached mount")
	answer := fl.Bool("syscalls", false, "run answers system calls")
	return &command{
		name:   sandbox.InitVerb,
		flags:  fl,
		hidden: true,
		run: func(_ context.Context, args []string) error {
			var calls []seccomp.Call
			if *answer {
				calls = syscalls.Calls()
			}
			err := sandbox.Init(*dir, calls, args)
			switch exit, ok := errors.AsType[*sandbox.ExitError](err); {
			case err == nil, ok && exit.Err == nil:
				return err
			case err == sandbox.ErrNotInit:
				return usageErrorf("%s: %w", sandbox.InitVerb, err)
			}
			return fmt.Errorf("run: %w", err)
		},
	}
}

// writeAnswersCommand is a helper process of the daemon.
func writeAnswersCommand() *command {
	return &command{
		name:   daemon.AnswerVerb,
		flags:  newFlags(daemon.AnswerVerb),
		hidden: true,
		run: func(_ context.Context, args []string) error {
			if len(args) != 1 {
				return usageErrorf("%s: only `vprocfs serve` can start this", daemon.AnswerVerb)
			}
			return daemon.WriteAnswers()
		},
	}
}

// openPinsCommand is a helper process of the daemon.
func openPinsCommand() *command {
	return &command{
		name:   daemon.PinVerb,
		flags:  newFlags(daemon.PinVerb),
		hidden: true,
		run: func(_ context.Context, args []string) error {
			if len(args) != 1 {
				return usageErrorf("%s: only `vprocfs serve` can start this", daemon.PinVerb)
			}
			return daemon.OpenPins()
		},
	}
}
