package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/supervise"
	"vprocfs/procvirt"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/psi"
)

// pressureDir is where the mount of proc/pressure belongs, below the main one.
const pressureDir = "proc/pressure"

// servePressure makes the mount of proc/pressure, attached nowhere, and serves it
// as long as this process lives. It is named as o names the main one. The returned
// file is the mount's root.
func servePressure(src *source, log *slog.Logger, o fs.MountOptions) (*os.File, error) {
	o.Writable = true
	conn, fd, err := fs.MountDetached(o)
	if err != nil {
		return nil, err
	}
	servePressureOn(conn, src, log, nil, fs.ServerOptions{})
	return os.NewFile(uintptr(fd), pressureDir), nil
}

// servePressureOn serves a connection of proc/pressure. kept are the triggers that
// there are already; nil for none, which are not kept then.
func servePressureOn(conn *fs.Conn, src *source, log *slog.Logger, kept *keptTriggers, o fs.ServerOptions) *fs.Server {
	t := &triggers{src: src, log: log, kept: kept}
	t.table = psi.NewTable(min(src.files/16, psi.MaxTriggers), func(waiter uint64) {
		if err := conn.Wake(waiter); err != nil {
			log.Error("nobody is told of an event", "err", err)
		}
	})
	if kept != nil {
		kept.restore(t.table, conn, log)
	}
	o.Log, o.Tree, o.Triggers = log, fs.PressureTree, t
	server := fs.NewServer(conn, src, o)
	go func() {
		if err := server.Serve(); err != nil {
			log.Error(pressureDir+" is not served any more", "err", err)
		}
	}()
	return server
}

// keepPressure serves proc/pressure of the view that this process serves at dir,
// with the mount that a former worker has made, if it is there. Where the view is
// unmounted, this goes with it. With an error there may be a server all the same.
func keepPressure(w *supervise.Worker, src *source, log *slog.Logger, o fs.MountOptions, dir string) (*fs.Server, error) {
	triggers, err := keptTable(w, log, fileTriggers, triggerFormat())
	if err != nil {
		return nil, err
	}
	kept := newKeptTriggers(triggers)
	path := filepath.Join(dir, pressureDir)
	fuse, ok := w.Files[filePressure]
	journal, ok2 := w.Files[filePressureJournal]
	o.Writable = true
	// Over where a worker died before it could attach it.
	if dev, err := fs.DevOf(path); ok && ok2 && err == nil && fs.Connected(fuse) {
		again := -1
		if dev == 0 {
			// Unmounted here, and used by containers.
			again, err = fs.Remount(fuse, o)
		}
		if err == nil {
			j, conn, err := fs.OpenJournal(journal, fuse)
			if err != nil {
				return nil, err
			}
			server := servePressureOn(conn, src, log, kept, fs.ServerOptions{Journal: j, Crashed: w.Crashed})
			if dev != 0 {
				return server, nil
			}
			mount := os.NewFile(uintptr(again), pressureDir)
			defer mount.Close()
			return server, attachMount(mount, path)
		}
		log.Warn("the former "+pressureDir+" is not of use: mounting anew", "err", err)
	}
	if ok {
		unix.Close(fuse) // or who waits for an answer there waits as long as we live
	}
	conn, fd, err := fs.MountDetached(o)
	if err != nil {
		return nil, err
	}
	mount := os.NewFile(uintptr(fd), pressureDir)
	defer mount.Close()
	j, err := fs.NewJournal(conn, 0)
	if err != nil {
		return nil, err
	}
	w.Keep(filePressure, conn.FD())
	w.Keep(filePressureJournal, j.FD())
	return servePressureOn(conn, src, log, kept, fs.ServerOptions{Journal: j}), attachMount(mount, path)
}

// attachTimeout is how long attaching a mount may take: some milliseconds on a
// machine that has time.
const attachTimeout = 30 * time.Second

// attachMount attaches a mount at path, which may lie in a mount that this process
// serves. So another process walks the path. It has no descriptor of /dev/fuse:
// should we die meanwhile, the path ends in ENOTCONN and it ends too.
func attachMount(mount *os.File, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), attachTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", AttachMountVerb, path)
	cmd.Args[0] = "vprocfs"
	cmd.ExtraFiles = []*os.File{mount}
	// A process in the middle of a request does not end before the answer.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("attach %s: no answer in %s", path, attachTimeout)
	case len(out) > 0:
		return errors.New(string(bytes.TrimPrefix(bytes.TrimSpace(out), []byte("vprocfs: "))))
	case err != nil:
		return fmt.Errorf("attach %s: %w", path, err)
	}
	return nil
}

// AttachMountVerb is the hidden verb that runs AttachMount.
const AttachMountVerb = "attach-mount"

// attachFD is the root of the mount that attach-mount is started with.
const attachFD = 3

// AttachMount moves the mount that attachMount has passed on to path. It is the
// hidden verb AttachMountVerb.
func AttachMount(path string) error {
	if err := unix.MoveMount(attachFD, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", path, err)
	}
	return nil
}

// triggers makes what containers write to proc/pressure triggers on the files of
// their own control groups. It is an fs.Triggers.
type triggers struct {
	src   *source
	table *psi.Table
	kept  *keptTriggers
	log   *slog.Logger

	// refused has the errnos that were logged.
	refused sync.Map
}

// Set makes a trigger. Who may set which is the kernel's rule since Linux 6.5, on
// all kernels: everybody those with a window that is a multiple of 2 s, which the
// kernel looks after in passing, and the privileged all.
func (t *triggers) Set(turn *fs.Turn, fh uint64, n fs.NodeID, text []byte) error {
	c := turn.Caller()
	err := t.set(turn, fh, n, text)
	if err == nil {
		return nil
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = unix.EIO
	}
	level := slog.LevelDebug
	if errno == unix.ENOSPC || errno == unix.EPERM {
		// Not the program's fault: there are too many, or this process lacks
		// CAP_SYS_RESOURCE. Once, for a container could fill the log.
		if _, seen := t.refused.LoadOrStore(errno, true); !seen {
			level = slog.LevelWarn
		}
	}
	t.log.Log(context.Background(), level, "a trigger is refused", "pid", c.PID, "errno", unix.ErrnoName(errno), "err", err)
	return err
}

func (t *triggers) set(turn *fs.Turn, fh uint64, n fs.NodeID, text []byte) error {
	file, err := t.src.fileOf(n)
	if err != nil {
		return err
	}
	trigger, err := psi.Parse(text)
	if err != nil {
		return err
	}
	if !trigger.Cheap() && !privileged(turn.Caller()) {
		return fmt.Errorf("window of an unprivileged process is not a multiple of 2 s: %w", unix.EINVAL)
	}
	pid := turn.Caller().PID
	place, err := t.src.registry.PressurePlace(pid, file, turn)
	if err != nil {
		return err
	}
	record := psi.Record{Handle: fh, File: place.File, Trigger: trigger, Owners: ownersOf(place)}
	err = t.table.Set(record, func() error {
		// The group may have been removed, and its name be another's by now. It
		// is not if the caller is in the group of that name after the file was
		// opened: the file is then of this group, or of one that is gone and
		// refuses the trigger.
		again, err := t.src.registry.PressurePlace(pid, file, turn)
		if err == nil && again != place {
			err = fmt.Errorf("control group %s changes: %w", place.Group, unix.ENODEV)
		}
		return err
	})
	if err == nil {
		t.kept.add(record)
	}
	return err
}

// privileged tells whether the kernel would let c set any trigger: it wants
// CAP_SYS_RESOURCE, of whichever user namespace (psi_trigger_create,
// kernel/sched/psi.c). Root counts without it: runtimes take it away as it
// concerns the host, but a container's own pressure is its own affair, and
// psi.MaxPerOwner bounds what it costs.
func privileged(c fs.Caller) bool {
	if c.UID == 0 {
		return true
	}
	caps, err := host.EffectiveCapabilities(proc, c.PID)
	return err == nil && caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// ownersOf returns whose triggers one at p counts as: those of the pid namespace, which
// may have groups of its own making, and those of the control group, which may have pid
// namespaces of its own making.
func ownersOf(p procvirt.PressurePlace) (owners [2]string) {
	if p.Namespace != 0 {
		owners[0] = "pid namespace " + strconv.FormatUint(p.Namespace, 10)
	}
	switch {
	case p.Group != "":
		owners[1] = "control group " + p.Group
	case p.Namespace == 0:
		owners[1] = "the host"
	}
	return owners
}

func (t *triggers) Poll(fh, kh uint64, asked uint32) uint32 {
	t.kept.waits(fh, kh)
	return t.table.Poll(fh, kh, asked)
}

func (t *triggers) Release(fh uint64) {
	t.kept.remove(fh)
	t.table.Release(fh)
}
