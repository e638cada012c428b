// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/attach"
	"vprocfs/internal/logqueue"
	"vprocfs/internal/supervise"
)

// Names of the descriptors of the holder, of its workers and of systemd's store. They
// are the same in all versions.
const (
	fileFuse     = "vprocfs-fuse"     // /dev/fuse
	fileJournal  = "vprocfs-journal"  // of fs.NewJournal
	fileTable    = "vprocfs-"         // and the name of a table of procvirt.Registry
	fileTriggers = "vprocfs-triggers" // made by a worker
	filePins     = "vprocfs-pins"     // of fs.Pins
	filePID      = "pidfile"          // of the holder only
)

// hold mounts the view at dir and keeps a worker running that serves it. It returns
// after a stop signal, or when the last mount of the view is gone. The holder does as
// little as possible, so that little can make it crash.
//
// It does not close its descriptors: the end of the process does. Until then a worker
// may still answer requests of other mounts of the view (binds in containers).
func hold(o Options, dir string) (err error) {
	// The reader of the log may end.
	signal.Ignore(unix.SIGPIPE)
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
	// A crash of Go and a wrong command line both exit with status 2, after which
	// systemd does not restart the service (RestartPreventExitStatus=). With this, a
	// crash and the watchdog's SIGABRT end the process by a signal.
	debug.SetTraceback("crash")
	unshareErr := logqueue.Unshare(unix.Stderr)
	output := logqueue.New(unix.Stderr)
	defer output.Flush(logPatience)
	log := o.Log.NewLogger(output, os.Getenv("JOURNAL_STREAM") != "")
	if unshareErr != nil {
		log.Debug("a crash of this process waits for the reader of the log", "err", unshareErr)
	}

	// Before the mount is made, so that no signal can leave it behind.
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
	kept := takeCalls(adopted)
	m, err := connect(o, dir, adopted, log)
	if err != nil {
		return err
	}
	calls := o.newCallKeeper(m.dir, kept, m.files, log)
	healer := newHealer(m.dir, log)
	watcher := o.newKeeper(adopted, log)
	if watcher != nil {
		if watcher.pidfd >= 0 {
			own[fileWatcher] = watcher.pidfd
		}
		defer watcher.end()
		if adopted.Working() {
			watcher.start()
		}
	}
	var h *supervise.Holder
	h = supervise.NewHolder(supervise.Config{
		Log:       log,
		Output:    output,
		Program:   program,
		MaxOutage: o.MaxOutage,
		Abort:     m.abort,
		Probe:     func(limit time.Duration) error { return attach.Read(m.dir, limit) },
		Serving: func(worker int) {
			log.Info("serving", "mountpoint", m.dir, "pid", os.Getpid(), "worker", worker)
			if watcher != nil {
				watcher.start()
			}
			for _, w := range append(o.Warnings, requestTimeouts("/", o.MaxOutage)...) {
				log.Warn(w)
			}
		},
		Stop: func() error {
			calls.stop(o.KeepMount, h.Withdraw)
			if o.KeepMount {
				return nil
			}
			return m.unmount()
		},
		Renew: func() (map[string]*os.File, error) {
			if err := m.renew(); err != nil {
				return nil, err
			}
			healer.ask()
			return m.files, nil
		},
		Status: func(s supervise.Status) any {
			status := o.status(s, m, healer, watcher, output)
			status.Syscalls = calls.status()
			return status
		},
		Offered: isOfCalls,
		Pause:   calls.pause,
		Dropped: calls.dropped,
		SetLevel: func(level string) error {
			err := o.Log.SetLevel(level)
			if err == nil {
				watcher.setLevel(level)
			}
			return err
		},
		Own: own,
	}, m.files, signals)
	m.listen(h, o.controlGroup())
	defer h.Unlisten()
	go calls.run(h.Offer)
	err = h.Run(adopted)
	if _, ok := errors.AsType[*supervise.ExitError](err); ok {
		// The worker has logged the reason. Its exit status may be that of a crash.
		return errors.Join(ErrReported, m.unmount())
	}
	return err
}

// ownPIDFile returns the pid file. After an upgrade this process already has it.
func (o *Options) ownPIDFile(a *supervise.Adopted) (*pidFile, error) {
	if a != nil {
		if fd, ok := a.Own[filePID]; ok {
			return &pidFile{o.PIDFile, fd}, nil
		}
	}
	return acquirePIDFile(o.PIDFile)
}
