package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"vprocfs/fs"
	"vprocfs/internal/daemon"
)

// lxcfsName is the verb, and the name of a program that means it.
const lxcfsName = "lxcfs"

// lxcfsVersion is the release of LXCFS whose command line this is. Scripts read it
// to know which options there are.
const lxcfsVersion = "7.0.0"

// lxcfsOptions is the command line of LXCFS, of all releases from 3.1 to 7.0
// together: what one of them takes is no error.
type lxcfsOptions struct {
	debug, foreground, loadavg, noSwap, noZswap, quota bool
	cgroupTree, legacy, pidfd, psi                     bool
	help, version                                      bool
	fuse                                               []string
	pidFile, runtimeDir                                string
}

func lxcfsCommand(stderr io.Writer) *command {
	var o lxcfsOptions
	fl := newFlags(lxcfsName)
	o.addFlags(fl)
	c := &command{
		name:    lxcfsName,
		summary: "serve in place of LXCFS, with its command line",
		usage:   "lxcfs [options] MOUNTPOINT",
		details: `A program of the name lxcfs that is a link to vprocfs does the same. The options
are those of LXCFS, and so are the defaults, the type of the file system
(fuse.lxcfs), the pid file, and the exit status 1 for a wrong command line. It
stays in the foreground and logs to stderr. SIGTERM, SIGINT and SIGHUP unmount and
end it, with exit status 0; SIGUSR1 has it become the binary that is on disk now,
SIGUSR2 switches to the host's own files and back.
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
			// It asks for help on stderr, and that is a failure: as in LXCFS.
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
	fl.BoolVarP(&o.foreground, "foreground", "f", false, "taken, and always so")
	fl.BoolVarP(&o.debug, "debug", "d", false, "log more; not with -f")
	fl.BoolVarP(&o.loadavg, "enable-loadavg", "l", false, "show the container's load in loadavg, not the host's")
	fl.BoolVar(&o.quota, "enable-cfs", false, "show as many CPUs as quota and cpuset allow, not as the cpuset alone does")
	fl.BoolVarP(&o.noSwap, "disable-swap", "u", false, "show no swap")
	fl.BoolVar(&o.noZswap, "disable-zswap", false, "show no zswap")
	fl.StringArrayVarP(&o.fuse, "options", "o", nil, "mount `OPTIONS`, with commas between")
	fl.StringVarP(&o.pidFile, "pidfile", "p", "", "`FILE` for the pid (default: lxcfs.pid in the directory of --runtime-dir)")
	fl.StringVar(&o.runtimeDir, "runtime-dir", "/run", "`DIR` for the pid file")
	fl.BoolVarP(&o.version, "version", "v", false, "print the release of LXCFS that this stands in for")
	fl.BoolVarP(&o.help, "help", "h", false, "print this, with exit status 1")
	fl.BoolVar(&o.psi, "enable-psi-poll", false, "taken; triggers in pressure files work without it")
	fl.BoolVar(&o.pidfd, "enable-pidfd", false, "taken; pidfds are always used")
	fl.BoolVar(&o.cgroupTree, "enable-cgroup", false, "taken, with a warning: there is no tree of control groups")
	fl.BoolVarP(&o.legacy, "single-threaded", "s", false, "taken, without effect")
}

// serveOptions returns the options of serve that mean the same.
func (o *lxcfsOptions) serveOptions() (*daemon.Options, error) {
	if o.debug && o.foreground {
		return nil, usageErrorf("-d and -f exclude each other")
	}
	so := &daemon.Options{
		View:    daemon.ViewOptions{IgnoreQuota: !o.quota, HostLoad: !o.loadavg, NoSwap: o.noSwap, NoZswap: o.noZswap},
		Mount:   fs.MountOptions{Name: lxcfsName, FSName: lxcfsName},
		PIDFile: o.pidFile,
	}
	if so.PIDFile == "" {
		so.PIDFile = filepath.Join(o.runtimeDir, "lxcfs.pid")
	}
	if o.debug {
		so.Log.Level = slog.LevelDebug
	}
	if o.cgroupTree {
		so.Warnings = append(so.Warnings, "--enable-cgroup: there is no tree of control groups; cgroup namespaces have taken its place")
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

// addMountOption takes one option of fuse(8), mount(8) or libfuse that LXCFS
// would hand on.
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
		// So it is mounted anyway.
	case "rw", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
		"async", "sync", "dirsync", "default_permissions", "max_read", "max_write", "max_readahead", "max_threads",
		"max_idle_threads", "max_background", "clone_fd", "entry_timeout", "attr_timeout", "ac_attr_timeout",
		"negative_timeout", "kernel_cache", "auto_cache", "noauto_cache", "noforget", "remember", "intr", "big_writes",
		"splice_read", "no_splice_read", "splice_write", "no_splice_write", "splice_move", "no_splice_move":
		// How fast it is, or what concerns writers: nothing that could be asked of
		// files that are made as they are read.
		o.Warnings = append(o.Warnings, "-o "+option+" has no effect")
	default:
		return usageErrorf("unknown mount option %q for -o", option)
	}
	return nil
}
