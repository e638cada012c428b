// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockPatience = 300 * time.Millisecond
	lockRetry    = 2 * time.Millisecond
)

// lock waits until no other helper changes the mounts of the container: two that
// attach at once, for a hook and for the watcher, would mount a file twice. It locks
// the mount namespace, whose file in /proc is one for all (flock(2)), until ns is
// closed. A process of the container can hold the lock too, so lock gives up after
// lockPatience: then the container harms only itself.
func (c *container) lock() {
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockRetry) {
		err := unix.Flock(c.ns, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return
		}
	}
}
