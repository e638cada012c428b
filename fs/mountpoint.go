// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
)

// probeTimeout is how long another mount may take to answer before it counts as
// hung. It delays only the start of a daemon that will be refused.
const probeTimeout = 2 * time.Second

// clearMountPoint returns the absolute path of dir without symbolic links, once
// it is a directory with nothing mounted on it. It detaches dead mounts of type
// fsType from it.
func clearMountPoint(dir, fsType string) (string, error) {
	for {
		var path string
		var fd int
		err := withTimeout(func() (err error) {
			path, fd, err = resolveDir(dir)
			return err
		})
		if err != nil {
			return "", err
		}
		mount, err := topMount(path)
		if err != nil || mount.FSType == "" {
			unix.Close(fd)
			return path, err
		}
		if err := probe(fd, path, mount.FSType, fsType); err != nil {
			return "", err
		}
		if err := Unmount(path); err != nil {
			return "", fmt.Errorf("replace the mount of a dead daemon: %w", err)
		}
	}
}

// resolveDir opens dir with O_PATH, which sends no request to the file system
// mounted on it, and returns the path the kernel has for it.
func resolveDir(dir string) (path string, fd int, err error) {
	fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", -1, err
	}
	path, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		unix.Close(fd)
		return "", -1, err
	}
	return path, fd, nil
}

// probe returns nil if the mount behind fd is of type fsType and its daemon is
// dead. It closes fd. It asks with fstatfs(2), because stat(2) of a dead mount
// may still be answered from the kernel's cache.
func probe(fd int, path, mounted, fsType string) error {
	if mounted != fsType {
		unix.Close(fd)
		return fmt.Errorf("%w (type %s)", ErrMounted, mounted)
	}
	err := withTimeout(func() error {
		defer unix.Close(fd)
		var st unix.Statfs_t
		return unix.Fstatfs(fd, &st)
	})
	switch {
	case err == nil:
		return fmt.Errorf("%w (type %s)", ErrMounted, mounted)
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		return nil
	default:
		return fmt.Errorf("statfs %s: %w", path, err)
	}
}

// withTimeout runs f in a goroutine of its own, and returns ErrMountHung if f does not
// return in time. The goroutine then lives as long as the mount that holds it.
func withTimeout(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(probeTimeout):
		return ErrMountHung
	}
}

// topMount returns the topmost mount on path, an absolute path without symbolic
// links. If nothing is mounted there it returns the zero value.
func topMount(path string) (mountinfo.Mount, error) {
	mounts, err := mountinfo.Load("/proc/self/mountinfo")
	top, _ := mountinfo.Top(mounts, path)
	return top, err
}

// DevOf returns the st_dev of the topmost mount on path, an absolute path without
// symbolic links, and 0 if nothing is mounted there. It asks nothing of the file system.
func DevOf(path string) (uint64, error) {
	m, err := topMount(path)
	return m.Dev, err
}

// DevOfFUSE is DevOf for a mount that must be of a FUSE file system. It returns ErrMounted
// for any other.
func DevOfFUSE(path string) (uint64, error) {
	m, err := topMount(path)
	if err == nil && m.Dev != 0 && !strings.HasPrefix(m.FSType, "fuse.") {
		return 0, fmt.Errorf("%s: %w (type %s)", path, ErrMounted, m.FSType)
	}
	return m.Dev, err
}
