package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
	"vprocfs/procvirt"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/psi"
)

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

// newTriggers returns the triggers of a connection: those of a former worker in kept, if it
// is not nil, and those that are set from now on.
func newTriggers(src *source, conn *fs.Conn, kept *keptTriggers) *triggers {
	t := &triggers{src: src, log: src.log, kept: kept}
	t.table = psi.NewTable(min(src.files/16, psi.MaxTriggers), func(waiter uint64) {
		if err := conn.Wake(waiter); err != nil {
			src.log.Error("nobody is told of an event", "err", err)
		}
	})
	if kept != nil {
		kept.restore(t.table, conn, src.log)
	}
	return t
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
