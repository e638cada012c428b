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
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/internal/shm"
	"vprocfs/internal/supervise"
	"vprocfs/procvirt"
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

// servePressureOn serves a connection of proc/pressure. saved has the triggers of the
// former worker; if it is nil, triggers end with this process.
func servePressureOn(conn *fs.Conn, src *source, log *slog.Logger, saved *shm.Table, o fs.ServerOptions) *fs.Server {
	t := &triggers{src: src, Triggers: src.registry.NewTriggers(procvirt.TriggerConfig{
		Max: src.files / 16, Wake: conn.Wake, Saved: saved, Log: log,
	})}
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
	saved, err := keptTable(w, log, fileTriggers, procvirt.TriggerFormat())
	if err != nil {
		return nil, err
	}
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
			server := servePressureOn(conn, src, log, saved, fs.ServerOptions{Journal: j, Crashed: w.Crashed})
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
	return servePressureOn(conn, src, log, saved, fs.ServerOptions{Journal: j}), attachMount(mount, path)
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

// triggers passes on to procvirt what containers write to proc/pressure. It is an
// fs.Triggers.
type triggers struct {
	*procvirt.Triggers
	src *source
}

// Set makes text the trigger of the open file fh.
func (t *triggers) Set(turn *fs.Turn, fh uint64, n fs.NodeID, text []byte) error {
	file, err := t.src.fileOf(n)
	if err != nil {
		return err
	}
	c := turn.Caller()
	return t.Triggers.Set(procvirt.TriggerRequest{Turn: turn, ID: turn.ID(), Handle: fh, File: file, PID: c.PID, UID: c.UID, Text: text})
}
