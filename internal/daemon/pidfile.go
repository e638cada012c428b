// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pidFile is a file with the pid of this process, which has a write lock on it
// (fcntl(2), F_SETLK) as long as it runs.
//
// Such a lock belongs to the process, not to the descriptor: the process loses it when
// it closes any descriptor of the file, and keeps it over an exec(2) that leaves the
// descriptor open.
type pidFile struct {
	path string
	fd   int
}

// acquirePIDFile creates the file with mode 0600, or takes over one that nobody has
// locked. If another process has locked it, acquirePIDFile returns an error and does
// not change the file.
func acquirePIDFile(path string) (*pidFile, error) {
	for {
		p, err := lockPIDFile(path)
		if err != nil {
			return nil, fmt.Errorf("pid file %s: %w", path, err)
		}
		// A process that ended may have removed the file between our open and our
		// lock.
		if !p.isOurs() {
			unix.Close(p.fd)
			continue
		}
		if err := p.write(); err != nil {
			return nil, errors.Join(fmt.Errorf("pid file %s: %w", path, err), p.remove())
		}
		return p, nil
	}
}

// lockPIDFile opens the file and locks it. It returns an error for a symbolic link and
// for anything but a regular file, because root is about to write to it.
func lockPIDFile(path string) (*pidFile, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	if err == nil {
		err = lock(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &pidFile{path, fd}, nil
}

// lock locks the file. Its error names the pid of the process that has the lock.
func lock(fd int) error {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &l)
	if err != unix.EAGAIN && err != unix.EACCES {
		return err
	}
	l = unix.Flock_t{Type: unix.F_WRLCK}
	if unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &l) == nil && l.Type != unix.F_UNLCK && l.Pid > 0 {
		return fmt.Errorf("another instance is running, with pid %d", l.Pid)
	}
	return errors.New("another instance is running")
}

func (p *pidFile) write() error {
	text := fmt.Appendln(nil, os.Getpid())
	if _, err := unix.Pwrite(p.fd, text, 0); err != nil {
		return err
	}
	if err := unix.Ftruncate(p.fd, int64(len(text))); err != nil {
		return err
	}
	return unix.Fchmod(p.fd, 0o600)
}

// isOurs reports whether the path still leads to the locked file.
func (p *pidFile) isOurs() bool {
	var ours, there unix.Stat_t
	return unix.Fstat(p.fd, &ours) == nil && unix.Lstat(p.path, &there) == nil &&
		ours.Dev == there.Dev && ours.Ino == there.Ino
}

// remove removes the file, unless it was replaced, and releases the lock.
func (p *pidFile) remove() error {
	defer unix.Close(p.fd)
	if !p.isOurs() {
		return nil
	}
	if err := unix.Unlink(p.path); err != nil {
		return fmt.Errorf("remove pid file %s: %w", p.path, err)
	}
	return nil
}
