package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/initpid"
)

// serveOptions are what serve needs. Command lines of other programs fill them
// too.
type serveOptions struct {
	log    logOptions
	source sourceOptions
	mount  fs.MountOptions
	// pidFile is where to leave the pid; empty for nowhere.
	pidFile string
	// warnings are for the log, which is not there yet when the command line is
	// read.
	warnings []string
}

func serveCommand() *command {
	var o serveOptions
	fl := newFlags("serve")
	o.source.addFlags(fl)
	o.log.addFlags(fl)
	return &command{
		name:    "serve",
		summary: "serve the view at MOUNTPOINT until a signal comes",
		usage:   "serve [flags] MOUNTPOINT",
		details: `Stays in the foreground and logs to stderr. SIGTERM, SIGINT and SIGHUP unmount and
end it; a second one ends it at once. SIGUSR1 makes it look at the host anew,
SIGUSR2 switches to the host's own files and back. Bind the files of
MOUNTPOINT/proc over those of the same name in a container's /proc, and
MOUNTPOINT/sys/devices/system/cpu over its /sys/devices/system/cpu.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if len(args) == 0 {
				return usageErrorf("missing mount point")
			}
			if len(args) > 1 {
				return usageErrorf("unexpected argument %q after the mount point", args[1])
			}
			return serve(o, args[0])
		},
	}
}

// errNotRoot is the answer where only root can go on.
var errNotRoot = errors.New("must be run as root")

// serve mounts the view at dir and serves it until a signal or an umount(8) of
// the last reference to it.
//
// What is open is left for the end of the process to close: requests may still
// be in the hands of the server then, which other mounts of the view (binds in
// containers) keep going until the last moment.
func serve(o serveOptions, dir string) (err error) {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	log := o.log.newLogger(os.Stderr, os.Getenv("JOURNAL_STREAM") != "")

	// Before the mount, so that no signal can leave it behind.
	signals := notifyServe()

	if o.pidFile != "" {
		pid, err := acquirePIDFile(o.pidFile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, pid.remove()) }()
	}
	src, err := newSource(o.source, log)
	if err != nil {
		return err
	}
	conn, err := fs.Mount(dir, o.mount)
	if err != nil {
		return err
	}

	// Where it really is, should dir be a symbolic link: umount2(2) follows none.
	mounted, err := resolve(dir)
	if err != nil {
		return errors.Join(err, fs.Unmount(dir))
	}
	dir = mounted
	served := make(chan error, 1)
	go func() { served <- fs.NewServer(conn, src, src.serverOptions()).Serve() }()
	if src.views.HasPressure() {
		if err := addPressure(src, log, o.mount, dir); err != nil {
			return errors.Join(err, fs.Unmount(dir))
		}
	}
	if err := dropPrivileges(servingCaps(src.resolver.Method() == initpid.Fork, true)); err != nil {
		log.Warn("all privileges are kept", "err", err) // better than no /proc
	}
	// The kernel has negotiated and now keeps requests until they are read: whoever
	// sees this line and opens a file gets an answer. A look through the mount
	// would prove more, but never from this process: killed while it waits for its
	// own answer, it could not end, for its own thread would keep /dev/fuse open.
	log.Info("serving", "mountpoint", dir, "pid", os.Getpid(), "init-pid", src.resolver.Method())
	for _, w := range o.warnings {
		log.Warn(w)
	}

	for {
		select {
		case err := <-served:
			log.Info("unmounted by another process", "mountpoint", dir)
			logStats(log, src)
			return err
		case <-signals.reload:
			reload(log, src)
		case <-signals.toggle:
			log.Info("virtualisation switched", "on", src.toggle())
		case s := <-signals.stop:
			// The next one now has its default action: it ends us.
			signal.Reset(stopSignals[:]...)
			log.Info("stopping", "signal", s.String())
			logStats(log, src)
			return fs.Unmount(dir)
		}
	}
}

// reload is what SIGUSR1 asks for.
func reload(log *slog.Logger, src *source) {
	if err := src.reload(); err != nil {
		log.Error("not reloaded, all stays as it was", "err", err)
		return
	}
	log.Info("reloaded")
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

// logStats logs how often callers got the host's file, and why.
func logStats(log *slog.Logger, src *source) {
	log.Info("fallbacks to the host's file", "counts", src.Stats())
}
