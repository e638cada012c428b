package initpid

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors of Cached and Resolve, to be told apart by errors.Is. Those that stem
// from a system call wrap its errno too.
var (
	// ErrCold says that the answer is not at hand: ask Resolve.
	ErrCold = errors.New("pid namespace is not resolved yet")

	// ErrCallerGone says that there is no such pid (any more).
	ErrCallerGone = errors.New("caller is gone")

	// ErrNoInit says that the namespace's init is dead.
	ErrNoInit = errors.New("pid namespace has no init")

	// ErrNotVisible says that the process or its namespace cannot be seen from
	// our own pid namespace. The kernel hands out pid 0 for such a caller.
	ErrNotVisible = errors.New("not visible in this pid namespace")

	// ErrHelper says that the fork helper could not be started, died, or could
	// not do its work. A *StepError tells which step failed.
	ErrHelper = errors.New("fork helper failed")

	// ErrTimeout says that the fork helper was too slow.
	ErrTimeout = errors.New("fork helper timed out")

	// ErrClosed says that the Resolver is closed.
	ErrClosed = errors.New("resolver is closed")

	// ErrUnsupported says that the kernel lacks something; the text names the
	// oldest kernel that has it.
	ErrUnsupported = errors.New("not supported by this kernel")
)

// reasons are the names of the errors for a counter, most telling first.
var reasons = [...]struct {
	err  error
	name string
}{
	{ErrCold, "cold"},
	{ErrCallerGone, "caller_gone"},
	{ErrNoInit, "no_init"},
	{ErrNotVisible, "not_visible"},
	{ErrTimeout, "helper_timeout"},
	{ErrHelper, "helper_failed"},
	{ErrClosed, "closed"},
	{ErrUnsupported, "unsupported"},
}

// Reason is a short name for an error of this package, fit as the label of a
// counter: one of a fixed few, "other" for what it does not know.
func Reason(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return "other"
}

// StepError is a failure inside the fork helper. It is an ErrHelper.
type StepError struct {
	Step   string      // what the helper was at: setns, clone, ...
	Errno  unix.Errno  // why it failed, or 0
	Signal unix.Signal // what killed the helper's child, or 0
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
