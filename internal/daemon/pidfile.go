package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pidFile is a file with the pid of this process, which tells others that it runs:
// it holds a write lock on it (fcntl(2), F_SETLK) as long as it lives.
//
// Such a lock is the process's, not the descriptor's: it is lost as soon as this
// process closes any descriptor of the file, and it outlives an exec(2) with the
// descriptor open.
type pidFile struct {
	path string
	fd   int
}

// acquirePIDFile makes the file, with mode 0600, or takes over one that nobody has
// a lock on. Where another process has, it is an error, and the file stays as it
// is.
func acquirePIDFile(path string) (*pidFile, error) {
	for {
		p, err := lockPIDFile(path)
		if err != nil {
			return nil, fmt.Errorf("pid file %s: %w", path, err)
		}
		// Who had the lock before may have removed the file on its way out, between
		// our open and our lock.
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

// lockPIDFile opens the file and locks it. A symbolic link, or what is no file, is
// an error: we are about to write to it as root.
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

// lock takes the lock, or says who has it.
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

// isOurs tells whether the path leads to the file that we have locked.
func (p *pidFile) isOurs() bool {
	var ours, there unix.Stat_t
	return unix.Fstat(p.fd, &ours) == nil && unix.Lstat(p.path, &there) == nil &&
		ours.Dev == there.Dev && ours.Ino == there.Ino
}

// remove removes the file, unless it is another's by now, and gives the lock up.
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
