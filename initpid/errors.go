package initpid

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors of the Resolver, for errors.Is. Those that a system call returned wrap its
// errno too.
var (
	// ErrCallerGone is returned if no thread has this pid (any more).
	ErrCallerGone = errors.New("caller is gone")

	// ErrNoInit is returned if the namespace's init is dead.
	ErrNoInit = errors.New("pid namespace has no init")

	// ErrNotVisible is returned if the process or its namespace is not visible in
	// our own pid namespace. The kernel gives such a caller pid 0.
	ErrNotVisible = errors.New("not visible in this pid namespace")

	// ErrHelper is returned if the fork helper did not start, died, or failed. A
	// *StepError has the step that failed.
	ErrHelper = errors.New("fork helper failed")

	// ErrTimeout is returned if the fork helper was too slow.
	ErrTimeout = errors.New("fork helper timed out")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("resolver is closed")

	// ErrUnsupported is returned if the kernel lacks something. The text has the
	// oldest kernel that has it.
	ErrUnsupported = errors.New("not supported by this kernel")
)

// StepError is a failure inside the fork helper. It is an ErrHelper.
type StepError struct {
	Step   string      // the step: setns, clone, ...
	Errno  unix.Errno  // 0 if there is none
	Signal unix.Signal // the signal that killed the helper's child, or 0
}

func (e *StepError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%v: %s: killed by signal %d (%v)", ErrHelper, e.Step, int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("%v: %s: %v", ErrHelper, e.Step, e.Errno)
}

func (e *StepError) Unwrap() []error {
	if e.Signal != 0 {
		return []error{ErrHelper}
	}
	return []error{ErrHelper, e.Errno}
}
