// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vprocfs/internal/count"
	"vprocfs/internal/shm"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/psi"
)

// Triggers are the triggers that containers have set on their pressure files. Each
// is a real one, on the file of the container's own control group. It is safe for
// concurrent use.
type Triggers struct {
	cfg   TriggerConfig
	proc  string // where the host's procfs is
	place func(TriggerRequest) (TriggerPlace, error)
	table *psi.Table

	set     atomic.Uint64
	refused *count.Table // by errno
}

// TriggerConfig is the configuration of Triggers.
type TriggerConfig struct {
	// Max is the number of triggers in all, at most psi.MaxTriggers.
	Max int
	// Wake wakes the file with the given FUSE poll handle. It must not block.
	Wake func(waiter uint64) error
	// Saved has the triggers of the former process, and gets those of this one,
	// in TriggerFormat. If it is nil they end with the process.
	Saved *shm.Table
	Log   *slog.Logger
}

// TriggerRequest is a write to a pressure file.
type TriggerRequest struct {
	Turn   Turn
	ID     uint64 // FUSE's number of the request; 0 if unknown
	Handle uint64 // FUSE's number of the open file
	File   *File
	PID    int // of the thread that writes
	UID    uint32
	Text   []byte
}

// TriggerPlace is where a trigger is set, and whom it is accounted to.
type TriggerPlace struct {
	// File is the path of the kernel's file.
	File string
	// Group is the control group of the container, empty for that of the host, and
	// Inode the inode number of its directory: another group may get the path.
	Group string
	Inode uint64
	// Owner is the outermost pid namespace of the container, 0 in our own.
	Owner uint64
}

// owners returns whom a trigger is accounted to: the outermost pid namespace, in
// which a container may make control groups, and the control group, in which a
// program of the host may make pid namespaces.
func (p TriggerPlace) owners() (owners [2]string) {
	if p.Owner != 0 {
		owners[0] = "pid namespace " + strconv.FormatUint(p.Owner, 10)
	}
	switch {
	case p.Group != "":
		owners[1] = "control group " + p.Group
	case p.Owner == 0:
		owners[1] = "the host"
	}
	return owners
}

// NewTriggers makes Triggers for the containers of r, and sets those of the former
// process again. It wakes whoever waits for one of them: an event may have been lost.
func (r *Registry) NewTriggers(cfg TriggerConfig) *Triggers {
	return newTriggers(cfg, r.proc, r.triggerPlace)
}

func newTriggers(cfg TriggerConfig, proc string, place func(TriggerRequest) (TriggerPlace, error)) *Triggers {
	t := &Triggers{cfg: cfg, proc: proc, place: place, refused: count.NewTable(1, numErrnos)}
	saved := savedTriggers{cfg.Saved}
	t.table = psi.NewTable(cfg.Max, t.wake, saved)
	for _, r := range saved.load() {
		// If it cannot be set, poll(2) reports an error, as for a removed group.
		if err := t.table.Set(r, func() error { return nil }); err != nil {
			cfg.Log.Warn("a trigger is lost", "file", r.File, "err", err)
			saved.Forget(r.Handle)
		}
		if r.Waiter != 0 {
			t.wake(r.Waiter)
		}
	}
	return t
}

func (t *Triggers) wake(waiter uint64) {
	if err := t.cfg.Wake(waiter); err != nil {
		t.cfg.Log.Error("nobody is told of an event", "err", err)
	}
}

// Close ends all triggers. The saved ones stay saved. No other method may be running
// or be called later.
func (t *Triggers) Close() { t.table.Close() }

// Set sets the trigger that was written. It may block. On all kernels it follows the
// rule of Linux 6.5 and later: everybody may set a trigger with a window that is a
// multiple of 2 s, which costs the host no thread, and privileged processes any.
//
// Errors: EINVAL, EBUSY if the file has a trigger or the container 16, ENOSPC if there
// are too many in all, ENODEV if the control group is removed, EOPNOTSUPP if it does
// not count stalls or is not known.
func (t *Triggers) Set(r TriggerRequest) error {
	err := t.setTrigger(r)
	if err == nil {
		t.set.Add(1)
		return nil
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = unix.EIO
	}
	t.refused.Add(0, int(errno))
	level := slog.LevelDebug
	if errno == unix.ENOSPC || errno == unix.EPERM {
		// There are too many in all, or this process lacks CAP_SYS_RESOURCE. The
		// admin can change that.
		level = slog.LevelWarn
	}
	t.cfg.Log.Log(context.Background(), level, "a trigger is refused", "pid", r.PID, "errno", unix.ErrnoName(errno), "err", err)
	return err
}

func (t *Triggers) setTrigger(r TriggerRequest) error {
	trigger, err := psi.Parse(r.Text)
	if err != nil {
		return err
	}
	if !trigger.Cheap() && !t.privileged(r) {
		return fmt.Errorf("window of an unprivileged process is not a multiple of 2 s: %w", unix.EINVAL)
	}
	place, err := t.place(r)
	if err != nil {
		return err
	}
	record := psi.Record{Handle: r.Handle, Request: r.ID, File: place.File, Trigger: trigger, Owners: place.owners()}
	return t.table.Set(record, func() error {
		// The group may have been removed, and another made with its name. If the
		// caller is in the group of that name now that the file is open, the file is
		// of this group, or of one that is gone and refuses the trigger.
		again, err := t.place(r)
		if err == nil && again != place {
			err = fmt.Errorf("control group %s changes: %w", place.Group, unix.ENODEV)
		}
		return err
	})
}

// privileged reports whether the kernel would let the caller set any trigger: it wants
// CAP_SYS_RESOURCE in any user namespace (psi_trigger_create, kernel/sched/psi.c).
// Root may without it. Runtimes take the capability away because it concerns the host.
// A container's own pressure does not, and psi.MaxPerOwner bounds what a trigger costs.
func (t *Triggers) privileged(r TriggerRequest) bool {
	if r.UID == 0 {
		return true
	}
	caps, err := host.EffectiveCapabilities(t.proc, r.PID)
	return err == nil && caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// Poll returns the events of an open file since they were last asked for, in the
// numbers of poll(2). If waiter is not 0, it is woken at the next event. Poll does not
// block.
func (t *Triggers) Poll(handle, waiter uint64, asked uint32) uint32 {
	return t.table.Poll(handle, waiter, asked)
}

// Release ends the trigger of an open file, if it has one. It does not block.
func (t *Triggers) Release(handle uint64) { t.table.Release(handle) }

// TriggerFormat is the format of the saved triggers. A record is a psi.Record in JSON.
func TriggerFormat() shm.Format {
	return shm.Format{Version: 2, Payload: 8192, Slots: 2 * psi.MaxTriggers}
}

// savedTriggers are the records of triggers in memory that outlives the process. It
// is a psi.Keeper.
type savedTriggers struct{ table *shm.Table }

// load returns the records of the former process.
func (s savedTriggers) load() (all []psi.Record) {
	if s.table == nil {
		return nil
	}
	s.table.Each(func(_ shm.Key, b []byte) {
		var r psi.Record
		if json.Unmarshal(b, &r) == nil {
			all = append(all, r)
		}
	})
	return all
}

func (s savedTriggers) record(handle uint64) *shm.Record {
	var key shm.Key
	binary.NativeEndian.PutUint64(key[:], handle)
	return s.table.Get(key, shm.Owner{})
}

// Keep saves r. If the table is full, the trigger ends with this process.
func (s savedTriggers) Keep(r psi.Record) {
	if b, err := json.Marshal(r); err == nil {
		record := s.record(r.Handle)
		record.Commit(append(record.Buffer(), b...))
	}
}

// Forget removes the record of a handle.
func (s savedTriggers) Forget(handle uint64) { s.record(handle).Free() }
