// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"time"

	"vprocfs/internal/attach"
	"vprocfs/internal/control"
)

// How long a client waits for a holder. A ping takes no time unless the holder is
// stopped or hangs. An upgrade may have to wait for a worker that works first.
const (
	askPatience     = 10 * time.Second
	upgradePatience = 2 * time.Minute
)

// viewTimeout is how long CheckView waits for an answer of the daemon.
const viewTimeout = 5 * time.Second

// CheckView returns the absolute path of dir. It returns an error if dir is not
// the mount point of a daemon that answers.
func CheckView(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return abs, attach.Read(abs, viewTimeout)
}

// Upgrade asks the daemon at dir to run the binary that is now at the path it
// was started from, and waits until it does.
func Upgrade(dir string) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	path, err := Resolve(dir)
	if err != nil {
		return err
	}
	socket := control.Path(path)
	if err := control.Ask(socket, control.Request{Verb: control.Ping}, askPatience, nil); err != nil {
		return err
	}
	return control.Ask(socket, control.Request{Verb: control.Upgrade}, upgradePatience, nil)
}
