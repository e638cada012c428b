// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// abortConnection aborts the FUSE connection of the device number, whoever has it
// open: a worker that cannot be reaped keeps it otherwise. It uses a fusectl of its own,
// which is mounted nowhere, because the host need not have mounted one.
func abortConnection(dev uint64) error {
	fusectl, err := openFusectl()
	if err != nil {
		return fmt.Errorf("fusectl: %w", err)
	}
	defer unix.Close(fusectl)
	path := fmt.Sprintf("%d/abort", unix.Minor(dev))
	fd, err := unix.Openat(fusectl, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s of fusectl: %w", path, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("1")); err != nil {
		return fmt.Errorf("write %s of fusectl: %w", path, err)
	}
	return nil
}

// openFusectl returns the root of a fusectl that is mounted nowhere. The mount lasts as
// long as the descriptor.
func openFusectl() (int, error) {
	context, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return root, nil
}
