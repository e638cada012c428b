// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/fs/journal"
	"vprocfs/internal/control"
	"vprocfs/internal/supervise"
)

// view is the mount of a holder, and the descriptors that outlive its workers.
type view struct {
	log     *slog.Logger
	options fs.MountOptions
	dir     string // the mount point; without symbolic links if it exists
	dev     uint64
	files   map[string]*os.File
}

// connect mounts the view. If a former process left a living connection, it takes that
// over instead.
func connect(o Options, dir string, a *supervise.Adopted, log *slog.Logger) (*view, error) {
	m := &view{log: log, options: o.Mount, dir: dir}
	if a != nil {
		err := m.adopt(a)
		if err == nil {
			return m, nil
		}
		level := slog.LevelWarn
		if errors.Is(err, errOver) { // as after a stop of the service
			level = slog.LevelInfo
		}
		log.Log(context.Background(), level, "the connection of a former process cannot be used: mounting a new one", "err", err)
		if err := a.Drop(); err != nil {
			log.Warn("systemd may keep some of its descriptors", "err", err)
		}
	}
	return m, m.mount()
}

// mount makes a new mount.
func (m *view) mount() error {
	conn, err := fs.Mount(m.dir, m.options)
	if err != nil {
		return err
	}
	files := map[string]*os.File{fileFuse: os.NewFile(uintptr(conn.FD()), fileFuse)}
	dev, err := m.addJournal(conn, files)
	if err != nil {
		return errors.Join(err, fs.Unmount(m.dir))
	}
	m.dev, m.files = dev, files
	return nil
}

// addJournal makes the journal of a new mount. It returns the st_dev of the mount.
func (m *view) addJournal(conn *fs.Conn, files map[string]*os.File) (dev uint64, err error) {
	// The path without symbolic links, which umount2(2) does not follow.
	path, err := Resolve(m.dir)
	if err != nil {
		return 0, err
	}
	m.dir = path
	if dev, err = fs.DevOf(path); err != nil {
		return 0, err
	}
	j, err := fs.NewJournal(conn, dev)
	if err != nil {
		return 0, err
	}
	fd, err := j.Leave()
	files[fileJournal] = os.NewFile(uintptr(fd), fileJournal)
	return dev, err
}

// errOver is returned by adopt if the connection was aborted, or unmounted everywhere.
var errOver = errors.New("the fuse connection is over")

// adopt takes over the connection of a former process. It returns an error only if the
// connection is dead: a living one is used by containers, wherever it is mounted.
func (m *view) adopt(a *supervise.Adopted) (err error) {
	for _, name := range []string{fileFuse, fileJournal} {
		if a.Files[name] == nil {
			return fmt.Errorf("no descriptor %s", name)
		}
	}
	if m.dev, err = journal.Dev(int(a.Files[fileJournal].Fd())); err != nil {
		return err
	}
	if !a.Working() && !fs.Connected(int(a.Files[fileFuse].Fd())) {
		return errOver
	}
	m.files = a.Files
	path, err := Resolve(m.dir)
	if err == nil {
		m.dir = path
		if !a.Working() {
			err = m.mountAgain()
		}
	}
	if err != nil {
		m.log.Warn("the view is not at its mount point; containers that use it are served", "mountpoint", m.dir, "err", err)
	}
	return nil
}

// mountAgain mounts the view at its mount point if it is unmounted there but still used
// by containers. That is so after a soft reboot.
func (m *view) mountAgain() error {
	switch dev, err := fs.DevOf(m.dir); {
	case err != nil:
		return err
	case dev == m.dev:
		return nil
	case dev != 0:
		return fs.ErrMounted
	}
	mount, err := fs.Remount(int(m.files[fileFuse].Fd()), m.options)
	if pins := m.files[filePins]; errors.Is(err, unix.EINVAL) && pins != nil { // before Linux 5.15
		mount, err = fs.BundleRoot(int(pins.Fd()))
	}
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, m.dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", m.dir, err)
	}
	m.log.Info("mounted again: it was unmounted, but containers use it", "mountpoint", m.dir)
	return nil
}

// renew makes a new mount after the connection was aborted. It keeps the descriptors that
// do not depend on the connection.
func (m *view) renew() error {
	old, oldDev := m.files, m.dev
	if err := m.mount(); err != nil {
		return err
	}
	for name, f := range old {
		if !isOfConnection(name) {
			m.files[name] = f
		}
	}
	m.log.Warn("the fuse connection was aborted from outside (umount -f in a container, or fusectl): mounted again; requests in flight and open files have failed",
		"mountpoint", m.dir, "aborted", unix.Minor(oldDev), "connection", unix.Minor(m.dev))
	return nil
}

// isOfConnection reports whether the descriptor of that name is useless without its
// connection.
func isOfConnection(name string) bool {
	return slices.Contains([]string{fileFuse, fileJournal, fileTriggers, filePins}, name)
}

// unmount unmounts the view from the mount point, if it is mounted there.
func (m *view) unmount() error {
	if dev, err := fs.DevOf(m.dir); err == nil && dev != m.dev {
		return nil
	}
	return fs.Unmount(m.dir)
}

// listen makes h accept requests about this mount. The path of the socket stays the same as
// long as the mount point does.
func (m *view) listen(h *supervise.Holder, group int) {
	if err := h.Listen(control.Path(m.dir), group); err != nil {
		m.log.Warn("no control socket: status, ps and upgrade cannot reach this process; SIGUSR1 can", "err", err)
	}
}

// abort aborts the connection: everybody who waits for an answer gets an error.
func (m *view) abort() {
	if err := abortConnection(m.dev); err != nil {
		m.log.Error("the connection is not aborted before all processes that have it end", "err", err)
	}
}

// Resolve returns the path of dir without symbolic links. It sends no request to the
// file system that is mounted there.
func Resolve(dir string) (string, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}
