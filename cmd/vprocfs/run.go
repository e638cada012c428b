package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

type runOptions struct {
	limits limits
	mount  string
	log    logOptions
	source sourceOptions
}

func runCommand() *command {
	o := runOptions{log: logOptions{level: logLevel(slog.LevelWarn)}}
	fl := newFlags("run")
	fl.SetInterspersed(false) // what follows CMD is CMD's
	fl.Var(&o.limits.memory, "memory", "memory limit, such as 512k, 256M, 1G or plain bytes")
	fl.Var(&o.limits.cpus, "cpus", "CPU time limit in CPUs, such as 1.5")
	fl.Var(&o.limits.cpuset, "cpuset", "CPUs to run on, such as 0-1,4")
	fl.StringVar(&o.mount, "mount", "", "take the view from `DIR`, the mount point of a running daemon")
	o.log.addFlags(fl)
	own := newFlags("view") // those that say what our own view shows
	o.source.addFlags(own)
	fl.AddFlagSet(own)
	return &command{
		name:    "run",
		summary: "run a command in a throwaway container with its own view",
		usage:   "run [flags] -- CMD [ARGS...]",
		details: `The container has cgroups, a pid namespace and a mount namespace of its own; files
and network are the host's. The view is served by run itself, or by the daemon of
--mount. When CMD ends everything is removed, and its exit status is run's: 128 and
the signal's number where a signal ended it, 126 where CMD cannot be executed, 127
where it is not found.
`,
		flags: fl,
		run: func(_ context.Context, args []string) error {
			if len(args) == 0 {
				return usageErrorf("missing command to run")
			}
			if o.mount != "" {
				if names := changed(own, fl); len(names) > 0 {
					return usageErrorf("--mount has its view from a daemon: --%s has no effect", names[0])
				}
			}
			return run(o, args)
		},
	}
}

// changed names the flags of set that were given on the command line of parsed.
func changed(set, parsed *pflag.FlagSet) []string {
	var names []string
	set.VisitAll(func(f *pflag.Flag) {
		if parsed.Changed(f.Name) {
			names = append(names, f.Name)
		}
	})
	return names
}

// run runs args in a container of its own, and returns its exit status as an
// error, unless it is 0.
func run(o runOptions, args []string) (err error) {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if o.mount != "" {
		if o.mount, err = checkView(o.mount); err != nil {
			return err
		}
	}
	// Before anything is made, so that no signal can leave it behind.
	signals := notify(forwarded[:]...)

	hierarchies, err := findHierarchies()
	if err != nil {
		return err
	}
	groups, err := makeCgroups(hierarchies, os.Getpid(), o.limits)
	if err != nil {
		return err
	}
	defer func() { err = joinKeepingStatus(err, groups.remove()) }()

	var views []*os.File
	if o.mount == "" {
		if views, err = serveDetached(o); err != nil {
			return err
		}
	}
	c, err := startContainer(o.mount, views, args)
	if err != nil {
		return err
	}
	if err := groups.add(c.pid()); err != nil {
		return errors.Join(err, c.kill())
	}
	return c.wait(signals)
}

// joinKeepingStatus adds the error of cleaning up to that of the work, whose
// exit status stands.
func joinKeepingStatus(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	if status, ok := errors.AsType[*exitError](err); ok {
		return &exitError{status.status, errors.Join(status.err, cleanup)}
	}
	return errors.Join(err, cleanup)
}

// serveDetached makes mounts that are attached nowhere, and serves them as long as
// this process lives: the view, and its proc/pressure where the host has PSI. No
// one but who gets the returned files can reach them, so the host never shows them,
// and they end with the container, however that ends.
func serveDetached(o runOptions) ([]*os.File, error) {
	log := o.log.newLogger(os.Stderr, false)
	src, err := newSource(o.source, log)
	if err != nil {
		return nil, err
	}
	conn, fd, err := fs.MountDetached(fs.MountOptions{})
	if err != nil {
		src.Close()
		return nil, err
	}
	views := []*os.File{os.NewFile(uintptr(fd), "view")}
	go func() {
		if err := fs.NewServer(conn, src, src.serverOptions()).Serve(); err != nil {
			log.Error("the container has lost its view", "err", err)
		}
	}()
	if src.views.HasPressure() {
		mount, err := servePressure(src, log, fs.MountOptions{})
		if err != nil {
			views[0].Close()
			return nil, err
		}
		views = append(views, mount)
	}
	return views, nil
}

// viewTimeout is how long the view of a daemon may take to answer at all.
const viewTimeout = 5 * time.Second

// checkView tells whether dir is the mount point of a daemon that answers, and
// returns it as an absolute path.
func checkView(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	file := filepath.Join(abs, "proc/uptime")
	checked := make(chan error, 1)
	go func() { checked <- checkViewFile(file) }()
	select {
	case err := <-checked:
		return abs, err
	case <-time.After(viewTimeout):
		return "", fmt.Errorf("read %s: no answer from the daemon in %s", file, viewTimeout)
	}
}

func checkViewFile(file string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", file, err)
	}
	if st.Type != unix.FUSE_SUPER_MAGIC {
		return fmt.Errorf("%s: not a file of a FUSE mount", file)
	}
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd)
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if err == nil && n == 0 {
		err = errors.New("empty file")
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}
