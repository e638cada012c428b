// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
)

// Errors of the Resolver, for errors.Is. Those of a system call of this process wrap its
// errno too.
var (
	// ErrCallerGone is returned if no thread has this pid (any more).
	ErrCallerGone = errors.New("caller is gone")

	// ErrNoInit is returned if the namespace's init is dead.
	ErrNoInit = errors.New("pid namespace has no init")

	// ErrNotVisible is returned if the process or its namespace is not visible in
	// our own pid namespace. The kernel gives such a caller pid 0.
	ErrNotVisible = errors.New("not visible in this pid namespace")

	// ErrHelper is returned if the fork helper did not start, died, or failed.
	ErrHelper = errors.New("fork helper failed")

	// ErrTimeout is returned if the fork helper was too slow.
	ErrTimeout = errors.New("fork helper timed out")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("resolver is closed")

	// ErrUnsupported is returned if the kernel lacks something. The text has the
	// oldest kernel that has it.
	ErrUnsupported = errors.New("not supported by this kernel")

	// errChildKilled is an ErrHelper: a signal killed the helper's child.
	errChildKilled = fmt.Errorf("%w: its child was killed", ErrHelper)
)
