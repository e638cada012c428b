package daemon

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"vprocfs/internal/logqueue"
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
	unshareErr := logqueue.Unshare(unix.Stderr)
	output := logqueue.New(unix.Stderr)
	defer output.Flush(logPatience)
	log := o.Log.NewLogger(output, os.Getenv("JOURNAL_STREAM") != "")
	if unshareErr != nil {
		log.Debug("a crash of this process waits for the reader of the log", "err", unshareErr)
	}

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
	healer := newHealer(m.dir, log)
	var h *supervise.Holder
	h = supervise.NewHolder(supervise.Config{
		Log:       log,
		Output:    output,
		Program:   program,
		MaxOutage: o.MaxOutage,
		Abort:     m.abort,
		Probe:     m.probe,
		Serving: func(worker int) {
			log.Info("serving", "mountpoint", m.dir, "pid", os.Getpid(), "worker", worker)
			for _, w := range append(o.Warnings, requestTimeouts("/", o.MaxOutage)...) {
				log.Warn(w)
			}
		},
		Stop: func() error {
			if o.KeepMount {
				return nil
			}
			return m.unmount()
		},
		Renew: func() (map[string]*os.File, error) {
			if err := m.renew(); err != nil {
				return nil, err
			}
			h.Unlisten()
			m.listen(h)
			healer.ask()
			return m.files, nil
		},
		Own: own,
	}, m.files, supervise.Signals{Stop: signals.stop, Upgrade: signals.upgrade, Toggle: signals.toggle})
	m.listen(h)
	defer h.Unlisten()
	err = h.Run(adopted)
	if _, ok := errors.AsType[*supervise.ExitError](err); ok {
		// The worker has said why. Its own status may be that of a crash.
		return errors.Join(ErrReported, m.unmount())
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
