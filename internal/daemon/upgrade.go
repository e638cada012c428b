package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"vprocfs/fs"
	"vprocfs/internal/attach"
	"vprocfs/internal/supervise"
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
	path, err := resolve(dir)
	if err != nil {
		return err
	}
	dev, err := fs.DevOf(path)
	if err != nil {
		return err
	}
	if dev == 0 {
		return fmt.Errorf("%s: nothing is mounted there", path)
	}
	return supervise.AskUpgrade(socketName(dev))
}
