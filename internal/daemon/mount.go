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
	"vprocfs/internal/supervise"
)

// held is the mount of a holder, and the descriptors that keep it.
type held struct {
	log     *slog.Logger
	options fs.MountOptions
	dir     string // the mount point, without symbolic links if it is there
	dev     uint64
	files   map[string]*os.File
}

// connect mounts the view, unless a former process has left a connection that lives.
func connect(o Options, dir string, a *supervise.Adopted, log *slog.Logger) (*held, error) {
	m := &held{log: log, options: o.Mount, dir: dir}
	if a != nil {
		err := m.adopt(a)
		if err == nil {
			return m, nil
		}
		log.Warn("what a former process has left is not of use: mounting anew", "err", err)
		if err := a.Drop(); err != nil {
			log.Warn("systemd may keep some of it", "err", err)
		}
	}
	return m, m.mount()
}

// mount makes a new mount.
func (m *held) mount() error {
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

// addJournal makes the journal of a mount that is new.
func (m *held) addJournal(conn *fs.Conn, files map[string]*os.File) (dev uint64, err error) {
	// Where it really is, should dir be a symbolic link: umount2(2) follows none.
	path, err := resolve(m.dir)
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

// adopt takes over the connection of a former process. It returns an error only if nobody
// can be served over it any more: containers use it, wherever it is mounted.
func (m *held) adopt(a *supervise.Adopted) (err error) {
	for _, name := range []string{fileFuse, fileJournal} {
		if a.Files[name] == nil {
			return fmt.Errorf("no descriptor %s", name)
		}
	}
	if m.dev, err = journal.Dev(int(a.Files[fileJournal].Fd())); err != nil {
		return err
	}
	if !a.Working() && !fs.Connected(int(a.Files[fileFuse].Fd())) {
		return errors.New("the fuse connection is over")
	}
	m.files = a.Files
	path, err := resolve(m.dir)
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

// mountAgain mounts the view where it was unmounted while containers have kept it
// alive, as a soft reboot does.
func (m *held) mountAgain() error {
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
	m.log.Info("mounted again: it was unmounted, and containers use it", "mountpoint", m.dir)
	return nil
}

// renew makes a new mount after the connection was aborted. Of what the old connection has
// left, only what is known of containers is of use.
func (m *held) renew() error {
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

// isOfConnection reports whether the descriptor of that name is of no use without the
// connection that it was made for.
func isOfConnection(name string) bool {
	return slices.Contains([]string{fileFuse, fileJournal, fileTriggers, filePins}, name)
}

// unmount detaches the mount from the mount point, if it is there.
func (m *held) unmount() error {
	if dev, err := fs.DevOf(m.dir); err == nil && dev != m.dev {
		return nil
	}
	return fs.Unmount(m.dir)
}

// listen makes h take requests for this mount.
func (m *held) listen(h *supervise.Holder) {
	if err := h.Listen(socketName(m.dev)); err != nil {
		m.log.Warn("vprocfs upgrade will not reach this process, SIGUSR1 does", "err", err)
	}
}

func socketName(dev uint64) string { return strconv.Itoa(int(unix.Minor(dev))) + ".sock" }

// abort ends the connection: whoever waits for an answer gets an error.
func (m *held) abort() {
	if err := abortConnection(m.dev); err != nil {
		m.log.Error("the connection is not aborted before all processes that have it end", "err", err)
	}
}

// probe returns an error if a file of the mount cannot be read.
func (m *held) probe(ctx context.Context) error { return probe(ctx, m.dir) }

// resolve returns the path that dir leads to. It asks nothing of the file system
// that is mounted there.
func resolve(dir string) (string, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}
