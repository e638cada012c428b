package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/fs/journal"
	"vprocfs/internal/supervise"
)

// The names of the descriptors that the holder, its workers, and systemd's store
// have. They stay the same from version to version.
const (
	fileFuse     = "vprocfs-fuse"     // /dev/fuse
	fileJournal  = "vprocfs-journal"  // of fs.NewJournal
	fileTable    = "vprocfs-"         // and the name of a table of procvirt.Registry
	fileTriggers = "vprocfs-triggers" // workers make it
	filePins     = "vprocfs-pins"     // of fs.Pins
	filePID      = "pidfile"          // the holder's only
)

// hold mounts the view at dir, and keeps a worker that serves it, until a signal or
// an umount(8) of the last reference to it. This process does next to nothing, so
// that there is next to nothing it could die of.
//
// What is open is left for the end of the process to close: requests may still
// be in the hands of the worker then, which other mounts of the view (binds in
// containers) keep going until the last moment.
func hold(o Options, dir string) (err error) {
	// Whoever reads the log may go away.
	signal.Ignore(unix.SIGPIPE)
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
	// A crash of Go is exit status 2, and so is a wrong command line, after which
	// systemd does not start us again (RestartPreventExitStatus=). So let a crash, and
	// the watchdog's SIGABRT, end in a signal.
	debug.SetTraceback("crash")
	log := o.Log.NewLogger(os.Stderr, os.Getenv("JOURNAL_STREAM") != "")

	// Before the mount, so that no signal can leave it behind.
	signals := notifyServe()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	adopted, err := supervise.Adopt()
	if err != nil {
		return err
	}
	own := make(map[string]int)
	if o.PIDFile != "" {
		pid, err := o.ownPIDFile(adopted)
		if err != nil {
			return err
		}
		own[filePID] = pid.fd
		defer func() { err = errors.Join(err, pid.remove()) }()
	}
	m, err := connect(o, dir, adopted, log)
	if err != nil {
		return err
	}
	h := supervise.NewHolder(supervise.Config{
		Log:       log,
		Program:   program,
		MaxOutage: o.MaxOutage,
		Abort:     m.abort,
		Probe:     m.probe,
		Serving: func(worker int) {
			log.Info("serving", "mountpoint", m.dir, "pid", os.Getpid(), "worker", worker)
			for _, w := range o.Warnings {
				log.Warn(w)
			}
		},
		Stop: func() error {
			if o.KeepMount {
				return nil
			}
			return fs.Unmount(m.dir)
		},
		Own: own,
	}, m.files, supervise.Signals{Stop: signals.stop, Upgrade: signals.upgrade, Toggle: signals.toggle})
	if err := h.Listen(m.socket()); err != nil {
		log.Warn("vprocfs upgrade will not reach this process, SIGUSR1 does", "err", err)
	}
	defer h.Unlisten()
	err = h.Run(adopted)
	if _, ok := errors.AsType[*supervise.ExitError](err); ok {
		// The worker has said why. Its own status may be that of a crash.
		return errors.Join(ErrReported, fs.Unmount(m.dir))
	}
	return err
}

// ownPIDFile is the pid file, which this process may have from before it became a
// new program.
func (o *Options) ownPIDFile(a *supervise.Adopted) (*pidFile, error) {
	if a != nil {
		if fd, ok := a.Own[filePID]; ok {
			return &pidFile{o.PIDFile, fd}, nil
		}
	}
	return acquirePIDFile(o.PIDFile)
}

// held is the mount and what keeps it.
type held struct {
	dir   string // without symbolic links
	dev   uint64
	files map[string]*os.File
}

// connect mounts the view, unless it has the mount from a former process.
func connect(o Options, dir string, a *supervise.Adopted, log *slog.Logger) (*held, error) {
	if a != nil {
		m, err := adoptMount(dir, o.Mount, a, log)
		if err == nil {
			return m, nil
		}
		log.Warn("what a former process has left is not of use: mounting anew", "err", err)
		if err := a.Drop(); err != nil {
			log.Warn("systemd may keep some of it", "err", err)
		}
	}
	conn, err := fs.Mount(dir, o.Mount)
	if err != nil {
		return nil, err
	}
	m := &held{dir: dir, files: map[string]*os.File{fileFuse: os.NewFile(uintptr(conn.FD()), fileFuse)}}
	if err := m.addJournal(conn); err != nil {
		return nil, errors.Join(err, fs.Unmount(m.dir))
	}
	return m, nil
}

// addJournal makes the journal of a mount that is new.
func (m *held) addJournal(conn *fs.Conn) error {
	// Where it really is, should dir be a symbolic link: umount2(2) follows none.
	path, err := resolve(m.dir)
	if err != nil {
		return err
	}
	m.dir = path
	if m.dev, err = fs.DevOf(path); err != nil {
		return err
	}
	j, err := fs.NewJournal(conn, m.dev)
	if err != nil {
		return err
	}
	fd, err := j.Leave()
	m.files[fileJournal] = os.NewFile(uintptr(fd), fileJournal)
	return err
}

// adoptMount takes over a mount that is still there, at dir or elsewhere.
func adoptMount(dir string, o fs.MountOptions, a *supervise.Adopted, log *slog.Logger) (*held, error) {
	for _, name := range []string{fileFuse, fileJournal} {
		if a.Files[name] == nil {
			return nil, fmt.Errorf("no descriptor %s", name)
		}
	}
	path, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	m := &held{dir: path, files: a.Files}
	if m.dev, err = journal.Dev(int(a.Files[fileJournal].Fd())); err != nil {
		return nil, err
	}
	if a.Working() {
		return m, nil
	}
	fuse := int(a.Files[fileFuse].Fd())
	dev, err := fs.DevOf(path)
	switch {
	case err != nil:
		return nil, err
	case !fs.Connected(fuse):
		return nil, errors.New("the fuse connection is over")
	case dev == 0:
		return m, m.mountAgain(fuse, o, log)
	case dev != m.dev:
		return nil, fmt.Errorf("it is not mounted at %s", path)
	}
	return m, nil
}

// mountAgain mounts the view where it was unmounted while containers have kept it
// alive, as a soft reboot does.
func (m *held) mountAgain(fuse int, o fs.MountOptions, log *slog.Logger) error {
	mount, err := fs.Remount(fuse, o)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, m.dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", m.dir, err)
	}
	log.Info("mounted again: it was unmounted, and containers use it", "mountpoint", m.dir)
	return nil
}

// socket is the name of the holder's socket.
func (m *held) socket() string { return socketName(m.dev) }

func socketName(dev uint64) string { return strconv.Itoa(int(unix.Minor(dev))) + ".sock" }

// abort ends the connection: whoever waits for an answer gets an error.
func (m *held) abort() {
	// Where fusectl is not mounted, the end of this process does the same, as it has
	// the last descriptor.
	path := filepath.Join("/sys/fs/fuse/connections", strconv.Itoa(int(unix.Minor(m.dev))), "abort")
	_ = os.WriteFile(path, []byte("1"), 0)
}

// probe reads a file of the mount in a process of its own. A thread of this one
// that waited for an answer could not be killed.
func (m *held) probe(ctx context.Context) error {
	start := time.Now()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", ProbeVerb, m.dir)
	cmd.Args[0] = "vprocfs"
	done := make(chan error, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) > 0 {
			err = errors.New(string(out[:len(out)-1]))
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("read a file of %s: no answer in %s", m.dir, time.Since(start).Round(time.Second))
	}
}

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
