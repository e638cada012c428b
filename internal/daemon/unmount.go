// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"

	"vprocfs/fs"
	"vprocfs/internal/control"
)

// ErrRunning is returned by Unmount if the daemon has not been stopped.
var ErrRunning = errors.New("the daemon runs: stop it first")

// Unmount ends the view at dir that a daemon has left there (Options.KeepMount), so that
// nobody waits for the next one: it aborts the connection and unmounts it. Who has a file
// of the view gets errors from then on. It returns nil if nothing is mounted there, and
// ErrRunning if the daemon runs.
func Unmount(dir string) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	path, err := Resolve(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dev, err := fs.DevOfFUSE(path)
	if err != nil || dev == 0 {
		return err
	}
	if err := control.Ask(control.Path(path), control.Request{Verb: control.Ping}, askPatience, nil); !errors.Is(err, control.ErrNoDaemon) {
		return fmt.Errorf("%s: %w", path, ErrRunning)
	}
	// Unmounted even if the abort fails: no new path leads to it then.
	return errors.Join(abortConnection(dev), fs.Unmount(path))
}
