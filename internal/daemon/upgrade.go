package daemon

import (
	"fmt"
	"os"

	"vprocfs/fs"
	"vprocfs/internal/supervise"
)

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
