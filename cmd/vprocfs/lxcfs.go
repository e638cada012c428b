// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"vprocfs/fs"
	"vprocfs/internal/daemon"
)

// lxcfsName is the verb, and the program name that implies it.
const lxcfsName = "lxcfs"

// lxcfsVersion is the release of LXCFS whose command line this is. Scripts read it to
// find out which options they may use.
const lxcfsVersion = "7.0.0"

// lxcfsOptions are the options of LXCFS, of all releases from 3.1 to 7.0.
type lxcfsOptions struct {
	debug, foreground, loadavg, noSwap, noZswap, quota bool
	cgroupTree, legacy, pidfd, psi                     bool
	help, version, keepMount                           bool
	fuse                                               []string
	pidFile, runtimeDir                                string
}

func lxcfsCommand(stderr io.Writer) *command {
	var o lxcfsOptions
	fl := newFlags(lxcfsName)
	o.addFlags(fl)
	c := &command{
		name:    lxcfsName,
		summary: "serve instead of LXCFS, with its command line",
		usage:   "lxcfs [options] MOUNTPOINT",
		details: `A link named lxcfs to vprocfs does the same. The options, their defaults, the file
system type (fuse.lxcfs), the pid file, and the exit status 1 for a wrong command
line are those of LXCFS. It stays in the foreground and logs to stderr. SIGTERM,
SIGINT and SIGHUP unmount the view and end it with exit status 0. SIGUSR1 replaces it
by the binary that is now on disk. SIGUSR2 switches to the host's files and back.
`,
		flags:      fl,
		usageFails: true,
	}
	c.run = func(_ context.Context, args []string) error {
		switch {
		case o.version:
			fmt.Fprintf(stderr, "%q\n", lxcfsVersion+"+vprocfs")
			return nil
		case o.help, len(args) == 0:
			// As LXCFS does: help goes to stderr and counts as a failure.
			if err := printCommandHelp(stderr, c); err != nil {
				return err
			}
			return errQuiet
		case len(args) > 1:
			return usageErrorf("unexpected argument %q after the mount point", args[1])
		}
		so, err := o.serveOptions()
		if err != nil {
			return err
		}
		return daemon.Serve(*so, args[0])
	}
	return c
}

func (o *lxcfsOptions) addFlags(fl *pflag.FlagSet) {
	fl.BoolVarP(&o.foreground, "foreground", "f", false, "accepted; always in the foreground")
	fl.BoolVarP(&o.debug, "debug", "d", false, "log debug messages; not with -f")
	fl.BoolVarP(&o.loadavg, "enable-loadavg", "l", false, "show the container's load averages, not the host's")
	fl.BoolVar(&o.quota, "enable-cfs", false, "show as many CPUs as quota and cpuset allow, not the whole cpuset")
	fl.BoolVarP(&o.noSwap, "disable-swap", "u", false, "show no swap")
	fl.BoolVar(&o.noZswap, "disable-zswap", false, "show no zswap")
	fl.StringArrayVarP(&o.fuse, "options", "o", nil, "mount `OPTIONS`, separated by commas")
	fl.StringVarP(&o.pidFile, "pidfile", "p", "", "`FILE` for the pid (default: lxcfs.pid in the directory of --runtime-dir)")
	fl.StringVar(&o.runtimeDir, "runtime-dir", "/run", "`DIR` for the pid file")
	fl.BoolVarP(&o.version, "version", "v", false, "print the release of LXCFS whose command line this is")
	fl.BoolVarP(&o.help, "help", "h", false, "print this help, with exit status 1")
	fl.BoolVar(&o.keepMount, "keep-mount", os.Getenv("FDSTORE") != "", "not an option of LXCFS: do not unmount when stopped, as systemd keeps the descriptors for the next start")
	fl.BoolVar(&o.psi, "enable-psi-poll", false, "accepted; pressure files take triggers without it")
	fl.BoolVar(&o.pidfd, "enable-pidfd", false, "accepted; pidfds are always used")
	fl.BoolVar(&o.cgroupTree, "enable-cgroup", false, "accepted with a warning: there is no tree of control groups")
	fl.BoolVarP(&o.legacy, "single-threaded", "s", false, "accepted without effect")
}

// serveOptions returns the options of serve that mean the same.
func (o *lxcfsOptions) serveOptions() (*daemon.Options, error) {
	if o.debug && o.foreground {
		return nil, usageErrorf("-d and -f exclude each other")
	}
	so := &daemon.Options{
		View:    daemon.ViewOptions{IgnoreQuota: !o.quota, HostLoad: !o.loadavg, NoSwap: o.noSwap, NoZswap: o.noZswap},
		Mount:   fs.MountOptions{Name: lxcfsName, FSName: lxcfsName},
		PIDFile: o.pidFile, KeepMount: o.keepMount,
	}
	if so.PIDFile == "" {
		so.PIDFile = filepath.Join(o.runtimeDir, "lxcfs.pid")
	}
	if o.debug {
		so.Log.Level = slog.LevelDebug
	}
	if o.cgroupTree {
		so.Warnings = append(so.Warnings, "--enable-cgroup has no effect: there is no tree of control groups, containers have cgroup namespaces")
	}
	for _, list := range o.fuse {
		for option := range strings.SplitSeq(list, ",") {
			if err := addMountOption(so, option); err != nil {
				return nil, err
			}
		}
	}
	return so, nil
}

// addMountOption applies a mount option of fuse(8), mount(8) or libfuse.
func addMountOption(o *daemon.Options, option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "":
	case "fsname":
		o.Mount.FSName = value
	case "subtype":
		o.Mount.Name = value
	case "debug":
		o.Log.Level = slog.LevelDebug
	case "ro", "nosuid", "nodev", "noexec", "allow_other", "direct_io", "nonempty":
		// The mount always has these.
	case "rw", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
		"async", "sync", "dirsync", "default_permissions", "max_read", "max_write", "max_readahead", "max_threads",
		"max_idle_threads", "max_background", "clone_fd", "entry_timeout", "attr_timeout", "ac_attr_timeout",
		"negative_timeout", "kernel_cache", "auto_cache", "noauto_cache", "noforget", "remember", "intr", "big_writes",
		"splice_read", "no_splice_read", "splice_write", "no_splice_write", "splice_move", "no_splice_move":
		// Options of performance, and of writing.
		o.Warnings = append(o.Warnings, "-o "+option+" has no effect")
	default:
		return usageErrorf("unknown mount option %q for -o", option)
	}
	return nil
}
