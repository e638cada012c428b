// SPDX-License-Identifier: Apache-2.0

// Package daemon is the vprocfs daemon: a holder, which owns the mount, and its
// workers, which serve it. It connects the packages that do the work (fs,
// initpid, procvirt, supervise) and knows no file format.
package daemon

import (
	"errors"
	"os"
	"time"

	"vprocfs/fs"
	"vprocfs/initpid"
	"vprocfs/internal/inject/watch"
	"vprocfs/internal/supervise"
	"vprocfs/procvirt/cgroup"
)

// Defaults of Options and ViewOptions.
const (
	DefaultMaxOutage = 30 * time.Second
	DefaultTTL       = time.Minute
)

// Options are the options of Serve.
type Options struct {
	Log   LogOptions
	View  ViewOptions
	Mount fs.MountOptions
	// PIDFile is the path of the pid file. If it is empty, there is none.
	PIDFile string
	// MaxOutage is how long readers may wait while no worker runs. 0 means
	// DefaultMaxOutage.
	MaxOutage time.Duration
	// KeepMount leaves the mount in place when the daemon stops.
	KeepMount bool
	// Attach attaches the containers that run and those that start, as Watch says.
	Attach bool
	Watch  watch.Rules
	// Syscalls answers system calls of containers whose runtime connects to
	// control.SeccompPath.
	Syscalls bool
	// ControlGroup is the name or number of the group whose members may ask the control
	// socket what changes nothing. If it is empty, only root may.
	ControlGroup string
	// DebugListen is the path of a socket at which the worker answers root with profiles of
	// itself. If it is empty, there is none.
	DebugListen string
	// Warnings are logged as soon as the daemon serves.
	Warnings []string
}

// ViewOptions say what containers see. The zero value is the default.
type ViewOptions struct {
	InitPID initpid.Method
	// TTL is how long the container of a caller is cached. 0 means DefaultTTL.
	TTL    time.Duration
	Policy cgroup.Policy
	// IgnoreQuota shows all CPUs of the cpuset, whatever the quota is.
	IgnoreQuota bool
	// HostLoad shows the host's load averages.
	HostLoad bool
	NoSwap   bool
	NoZswap  bool
	// MaxRate is how many files a second an outermost container may read before its reads
	// are delayed. 0 is any number.
	MaxRate int
}

// ErrNotRoot is returned if the caller's effective uid is not 0.
var ErrNotRoot = errors.New("must be run as root")

// ErrReported is returned by Serve if a worker failed. The worker has logged the
// reason; there is nothing more to print.
var ErrReported = errors.New("")

// Serve mounts the view at dir and serves it until a signal arrives or the
// mount is gone. If a holder started this process, Serve is a worker of that
// holder instead.
func Serve(o Options, dir string) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	if o.MaxOutage == 0 {
		o.MaxOutage = DefaultMaxOutage
	}
	if err := limitPrivileges(o.caps()); err != nil {
		return err
	}
	if err := hideProcess(); err != nil {
		return err
	}
	if isWatcher() {
		return watchContainers(o, dir)
	}
	w, err := supervise.NewWorker()
	switch {
	case err != nil:
		return err
	case w != nil:
		return work(o, dir, w)
	}
	return hold(o, dir)
}
