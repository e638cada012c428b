package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/mountinfo"
)

const (
	// pinWait bounds how long a worker waits for its pins before it says that it serves.
	// They take some milliseconds.
	pinWait = time.Second
	// pinAgain is how long after a failure pins are tried again.
	pinAgain = time.Second
	// mountSettle is how long mounts may change before they are looked at: they change
	// together, and each look reads all mounts of the host.
	mountSettle = 100 * time.Millisecond
	// useAgain is how often it is looked whether containers still use a view that is not
	// mounted on the host any more. No event tells.
	useAgain = 10 * time.Second
)

// pinner keeps the files of the view pinned (fs.Pins) as long as the view is mounted
// somewhere.
type pinner struct {
	log    *slog.Logger
	path   string // of the mount point
	mount  fs.MountOptions
	dev    uint64
	fuse   int
	server *fs.Server
	pins   *fs.Pins

	former int    // the bundle of the former worker, -1 for none
	pinned bool   // all files are
	failed string // the last failure that was logged
}

// newPinner makes a pinner for the worker that has files.
func newPinner(o Options, dir string, files map[string]int, dev uint64, server *fs.Server, pins *fs.Pins, log *slog.Logger) *pinner {
	path, err := resolve(dir)
	if err != nil {
		path = dir // removed; containers may use the view all the same
	}
	former, ok := files[filePins]
	if !ok {
		former = -1
	}
	return &pinner{log: log, path: path, mount: o.Mount, dev: dev, fuse: files[fileFuse], server: server, pins: pins, former: former}
}

// start pins the files and keeps them pinned, in the background. It waits for the pins,
// but not longer than pinWait.
func (p *pinner) start() {
	changes, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		p.log.Error("containers can delay each other by leases (F_SETLEASE)", "err", err)
		return
	}
	looked := make(chan struct{})
	go func() {
		wait := p.look()
		close(looked)
		for {
			// Mountinfo can always be read; a change is POLLPRI (proc_pid_mounts(5)).
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(changes), Events: unix.POLLPRI}}, wait)
			if n > 0 || err != nil {
				time.Sleep(mountSettle)
			}
			wait = p.look()
		}
	}()
	select {
	case <-looked:
	case <-time.After(pinWait):
	}
}

// look pins the files if the view is mounted anywhere, and else closes the pins: they
// keep the file system alive. If nobody else does, the server ends then. The next look
// is due when mounts change, and in the returned number of milliseconds, -1 for never.
func (p *pinner) look() (wait int) {
	here := mountedIn("/proc/self/mountinfo", p.dev)
	if !here && !mountedInAny("/proc", p.dev) {
		// It may be closed, and the file system live on: somebody has a file open, or
		// is about to mount it.
		_ = p.pins.Close()
		if p.former >= 0 {
			_ = fs.EmptyBundle(p.former)
			p.former = -1
		}
		p.pinned = false
		return int(useAgain.Milliseconds())
	}
	wait = -1
	if !here {
		wait = int(useAgain.Milliseconds())
	}
	if p.pinned {
		return wait
	}
	if err := p.pin(); err != nil {
		p.fail(err)
		return int(pinAgain.Milliseconds())
	}
	p.pinned, p.failed = true, ""
	return wait
}

// pin opens the pins, and then ends those of the former worker.
func (p *pinner) pin() error {
	if !p.pins.IsOpen() {
		root, err := p.clone()
		if err != nil {
			return err
		}
		p.pins.Open(root)
	}
	if err := p.server.Pin(); err != nil || p.former < 0 {
		return err
	}
	former := p.former
	p.former = -1
	return fs.EmptyBundle(former)
}

// fail logs a failure, once if it lasts.
func (p *pinner) fail(err error) {
	if err.Error() == p.failed || !fs.Connected(p.fuse) {
		return
	}
	p.failed = err.Error()
	if errors.Is(err, unix.EAGAIN) {
		p.log.Warn("a process has a lease on a file of the view and delays others: waiting until the kernel ends it", "err", err)
		return
	}
	p.log.Warn("containers can delay each other by leases (F_SETLEASE)", "err", err)
}

// clone returns a private clone of the mount, wherever that is to be had.
func (p *pinner) clone() (root int, err error) {
	root, err = fs.Clone(p.path, p.dev)
	if err != nil && p.former >= 0 {
		root, err = fs.BundleRoot(p.former)
	}
	if err != nil {
		root, err = fs.Remount(p.fuse, p.mount)
	}
	return root, err
}

// mountedIn reports whether the file system dev is mounted in the mountinfo at path. It
// is true if that cannot be read.
func mountedIn(path string, dev uint64) bool {
	text, err := mountinfo.Read(path)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EINVAL) // of a process that has ended
	}
	// Few have it, so the others need not be parsed.
	number := fmt.Sprintf(" %d:%d ", unix.Major(dev), unix.Minor(dev))
	if !bytes.Contains(text, []byte(number)) {
		return false
	}
	mounts, err := mountinfo.Parse(text)
	for _, m := range mounts {
		if m.Dev == dev {
			return true
		}
	}
	return err != nil
}

// mountedInAny reports whether the file system dev is mounted in any mount namespace that
// has a process.
func mountedInAny(proc string, dev uint64) bool {
	dir, err := os.Open(proc)
	if err != nil {
		return true
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return true
	}
	seen := make(map[[2]string]bool) // mount namespaces, with the root directory
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		ns, err := os.Readlink(filepath.Join(proc, name, "ns/mnt"))
		if err != nil {
			continue // a process that has ended has none
		}
		// Mountinfo tells only what is below the root. The link is not walked: the kernel
		// prints the name that the root has.
		root, err := os.Readlink(filepath.Join(proc, name, "root"))
		view := [2]string{ns, root}
		if err != nil || seen[view] {
			continue
		}
		if mountedIn(filepath.Join(proc, name, "mountinfo"), dev) {
			return true
		}
		seen[view] = true
	}
	return false
}
