package procvirt

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/cgroup"
)

// Reason names why a caller gets the host's own file. It is an error, so that it
// can travel as one; errors.Is finds it in what it was wrapped in.
type Reason int

// The reasons.
const (
	// RootCgroup: the caller is in the root group, as programs of the host are.
	RootCgroup Reason = iota
	// Invisible: the caller has no pid in the daemon's pid namespace.
	Invisible
	// CallerGone: the caller ended before it could be looked at.
	CallerGone
	// NoInit: the caller's pid namespace has no init any more, or none that the
	// daemon can see.
	NoInit
	// Unresolved: finding the init failed in another way.
	Unresolved
	// NoController: the host has no controller for this file.
	NoController
	// OutsideCgroup: the group lies outside what the daemon sees of the tree.
	OutsideCgroup
	// DeepCgroup: the group has too many ancestors to read them all.
	DeepCgroup
	// RemovedCgroup: the group was removed under its processes.
	RemovedCgroup
	// Unreadable: a file of the group could not be read or understood.
	Unreadable
	// SwitchedOff: virtualisation, or that of this file, is switched off for
	// everybody.
	SwitchedOff
	// NoPressure: the group does not count its stalls.
	NoPressure
	numReasons
)

var reasonNames = [numReasons]string{
	"root-cgroup", "caller-invisible", "caller-gone", "no-init", "unresolved",
	"no-controller", "outside-cgroup", "deep-cgroup", "removed-cgroup", "unreadable",
	"switched-off", "no-pressure",
}

func (r Reason) String() string { return reasonNames[r] }

func (r Reason) Error() string { return "host's file: " + reasonNames[r] }

// reasonOf finds the reason in an error of gathering.
func reasonOf(err error) Reason {
	if r, ok := err.(Reason); ok {
		return r // the way of the host's own programs, which must not allocate
	}
	var r Reason
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, cgroup.ErrNoController), errors.Is(err, cgroup.ErrNotEnabled):
		return NoController
	case errors.Is(err, cgroup.ErrNoPressure):
		return NoPressure
	case errors.Is(err, cgroup.ErrOutside):
		return OutsideCgroup
	case errors.Is(err, cgroup.ErrTooDeep):
		return DeepCgroup
	case errors.Is(err, cgroup.ErrRemoved), errors.Is(err, unix.ENODEV):
		return RemovedCgroup
	case errors.Is(err, unix.ESRCH):
		return CallerGone
	}
	return Unreadable
}

// fallbacks counts how often the host's file was given, and says each file and
// reason in the log the first time.
type fallbacks struct {
	counts [][numReasons]atomic.Uint64 // by the file's index
	log    *slog.Logger
}

func (f *fallbacks) note(file *File, r Reason, err error) {
	if f.counts[file.index][r].Add(1) > 1 {
		return
	}
	level := slog.LevelWarn
	if r == RootCgroup || r == SwitchedOff {
		level = slog.LevelDebug // the host's own programs, and what was asked for
	}
	f.log.Log(context.Background(), level, "the host's file is given", "file", file.String(), "reason", r.String(), "error", err)
}

// Fallbacks returns how often the host's file was given so far, for each file
// and reason that ever was, as "FILE/REASON".
func (v *Views) Fallbacks() map[string]uint64 {
	all := map[string]uint64{}
	for i := range v.files {
		for r := range numReasons {
			if n := v.fallbacks.counts[i][r].Load(); n > 0 {
				all[v.files[i].String()+"/"+r.String()] = n
			}
		}
	}
	return all
}

// NoteFallback counts a decision of the same kind as AppendHost's, for whoever
// gives something else of the host's than the text of f. detail may be nil.
func (v *Views) NoteFallback(f *File, r Reason, detail error) { v.fallbacks.note(f, r, detail) }

// AppendHost appends the host's own file, byte for byte, and counts the reason.
// detail, which may be nil, goes to the log the first time. Without wait it answers
// ErrCold where reading that file is slow.
func (v *Views) AppendHost(dst []byte, f *File, r Reason, detail error, wait bool) ([]byte, error) {
	if !wait && v.hostPace[f.index].isSlow() {
		return dst, ErrCold
	}
	v.fallbacks.note(f, r, detail)
	s := v.scratch.Get().(*scratch)
	defer v.scratch.Put(s)
	start := time.Now()
	text, err := v.readHost(f.Path, s.host)
	v.hostPace[f.index].took(time.Since(start), v.slowAfter)
	if err != nil {
		return dst, err
	}
	s.host = text
	return append(dst, text...), nil
}
