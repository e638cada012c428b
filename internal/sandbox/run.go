// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs a command in a throwaway container: cgroups with limits, a
// pid namespace and a mount namespace whose /proc shows a view. Files and network
// are the host's. It does not know what the view shows.
package sandbox

import (
	"errors"
	"os"
)

// Options are the options of Run.
type Options struct {
	Limits Limits
	// Dir is the mount point of the daemon that serves the view. If it is empty,
	// Serve is called.
	Dir string
	// Serve returns the root of a detached mount: the view.
	Serve func() (*os.File, error)
	// Answer, if not nil, takes over the listener of a seccomp filter that the command gets:
	// the calls of the filter are those that Init is given.
	Answer func(listener int)
}

// ExitError is the exit status of a command, if that is not 0. Without Err there
// is nothing to print.
type ExitError struct {
	Status int
	Err    error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// ExitStatus returns the exit status.
func (e *ExitError) ExitStatus() int { return e.Status }

// Run runs args in a container of its own. It returns an *ExitError unless the
// exit status is 0.
func Run(o Options, args []string) (err error) {
	// Before anything is made, so that no signal can leave it behind.
	signals := notify(forwarded[:]...)

	groups, err := MakeCgroups(os.Getpid(), o.Limits)
	if err != nil {
		return err
	}
	defer func() { err = joinKeepingStatus(err, groups.Remove()) }()

	var view *os.File
	if o.Dir == "" {
		if view, err = o.Serve(); err != nil {
			return err
		}
	}
	c, err := startContainer(o, view, args)
	if err != nil {
		return err
	}
	if err := groups.Add(c.pid()); err != nil {
		return errors.Join(err, c.kill())
	}
	return c.wait(signals)
}

// joinKeepingStatus adds the error of cleaning up to that of the work, whose exit
// status stays.
func joinKeepingStatus(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	if e, ok := errors.AsType[*ExitError](err); ok {
		return &ExitError{e.Status, errors.Join(e.Err, cleanup)}
	}
	return errors.Join(err, cleanup)
}
