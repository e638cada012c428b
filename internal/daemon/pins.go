// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/mountinfo"
)

const (
	// pinWait is how long a worker waits for its pins before it reports serving. They
	// take some milliseconds.
	pinWait = time.Second
	// pinAgain is the time between a failure and the next try.
	pinAgain = time.Second
	// mountSettle is the time between a change of mounts and the look at them. Mounts
	// often change together, and each look reads all mounts of the host.
	mountSettle = 100 * time.Millisecond
	// useAgain is the time between two looks whether containers still use a view that
	// is no longer mounted on the host. There is no event for that.
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
	path, err := Resolve(dir)
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
	text, err := mountinfo.Read("/proc/self/mountinfo")
	here := err != nil || mentions(text, p.dev)
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

// clone returns a private clone of the mount: of the mount point, of the former bundle,
// or of the file system.
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

// unmountTime is how long umount -f of the administrator may take to unmount after it has
// aborted the connection, on a busy machine.
const unmountTime = 250 * time.Millisecond

// isMounted reports whether the file system dev, whose connection is over, is mounted at
// path still: somebody has aborted the connection then, and nobody unmounted it.
func isMounted(path string, dev uint64) bool {
	for end := time.Now().Add(unmountTime); ; time.Sleep(unmountTime / 10) {
		mounts, err := mountinfo.Load("/proc/self/mountinfo")
		if err == nil && !slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return m.Point == path && m.Dev == dev }) {
			return false
		}
		if time.Now().After(end) {
			return true
		}
	}
}

// mentions reports whether the text of a mountinfo has the file system dev. It returns
// true if it cannot be parsed.
func mentions(text []byte, dev uint64) bool {
	// Few have it, so the others need not be parsed.
	number := fmt.Sprintf(" %d:%d ", unix.Major(dev), unix.Minor(dev))
	if !bytes.Contains(text, []byte(number)) {
		return false
	}
	mounts, err := mountinfo.Parse(text)
	return err != nil || slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return m.Dev == dev })
}

// mountedInAny reports whether the file system dev is mounted in any mount namespace that
// has a process. It returns true if that cannot be found out.
func mountedInAny(proc string, dev uint64) bool {
	views, err := mountinfo.Views(proc)
	return err != nil || slices.ContainsFunc(views, func(v mountinfo.View) bool {
		text, err := v.Read(proc)
		return err != nil || mentions(text, dev)
	})
}
