// SPDX-License-Identifier: Apache-2.0

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
	// ByPolicy: the container's policy says so.
	ByPolicy
	numReasons
)

var reasonNames = [numReasons]string{
	"root-cgroup", "caller-invisible", "caller-gone", "no-init", "unresolved",
	"no-controller", "outside-cgroup", "deep-cgroup", "removed-cgroup", "unreadable",
	"switched-off", "no-pressure", "policy",
}

func (r Reason) String() string { return reasonNames[r] }

func (r Reason) Error() string { return "host's file: " + reasonNames[r] }

// named returns the Reason that err wraps, if it does.
func named(err error) (r Reason, ok bool) {
	if r, ok = err.(Reason); ok {
		return r, true // the way of the host's own programs, which must not allocate
	}
	var wrapped Reason // escapes
	ok = errors.As(err, &wrapped)
	return wrapped, ok
}

// reasonOf returns the reason that an error of gathering is.
func reasonOf(err error) Reason {
	if r, ok := named(err); ok {
		return r
	}
	switch {
	case errors.Is(err, cgroup.ErrNoController), errors.Is(err, cgroup.ErrNotEnabled):
		return NoController
	case errors.Is(err, cgroup.ErrNoPressure):
		return NoPressure
	case errors.Is(err, cgroup.ErrOutside):
		return OutsideCgroup
	case errors.Is(err, cgroup.ErrTooDeep):
		return DeepCgroup
	case errors.Is(err, cgroup.ErrRemoved), errors.Is(err, errOtherGroup), errors.Is(err, unix.ENODEV):
		return RemovedCgroup
	case errors.Is(err, unix.ESRCH):
		return CallerGone
	}
	return Unreadable
}

// events counts how often the host's file was given, and how often a read failed
// because this process is out of a resource. It logs each file and reason the first
// time.
type events struct {
	fallbacks [][numReasons]atomic.Uint64 // by the file's index
	failures  []atomic.Uint64
	// unknownWords counts the words of policies that are not known.
	unknownWords atomic.Uint64
	log          *slog.Logger
}

func (e *events) init(files int) {
	e.fallbacks, e.failures = make([][numReasons]atomic.Uint64, files), make([]atomic.Uint64, files)
}

// UnknownWords is what Stats calls a word of a policy that is not known.
const UnknownWords = "policy/unknown-word"

// OutOfResources is what Stats calls a read that failed because this process is out of
// a resource.
const OutOfResources = "out-of-resources"

// fallBack counts that a caller gets the host's file f, or something of the host's in
// its place, because of err. It returns err if that is no reason to give it: then the
// request must fail.
func (r *Registry) fallBack(f *File, err error) error {
	e := &r.events
	if refused, ok := err.(refusal); ok {
		return refused.error
	}
	if _, ok := named(err); !ok && (isOurs(err) || errors.Is(err, unix.EOPNOTSUPP)) {
		if isOurs(err) && e.failures[f.index].Add(1) == 1 {
			e.log.Error("a read failed", "file", f.String(), "reason", OutOfResources, "error", err)
		}
		return err
	}
	reason := reasonOf(err)
	if e.fallbacks[f.index][reason].Add(1) > 1 {
		return nil
	}
	level := slog.LevelWarn
	if reason.isAsked() {
		level = slog.LevelDebug // the host's own programs, and what was asked for
	}
	e.log.Log(context.Background(), level, "the host's file is given", "file", f.String(), "reason", reason.String(), "error", err)
	return nil
}

// Stats returns how often the host's file was given so far, and how often a read failed
// for want of resources, for each file and reason that ever was, as "FILE/REASON"; and
// how many unknown words policies had, as UnknownWords.
func (r *Registry) Stats() map[string]uint64 {
	all := map[string]uint64{}
	count := func(f *File, reason string, n uint64) {
		if n > 0 {
			all[f.String()+"/"+reason] = n
		}
	}
	for i := range r.files {
		f := &r.files[i]
		for reason := range numReasons {
			count(f, reason.String(), r.events.fallbacks[i][reason].Load())
		}
		count(f, OutOfResources, r.events.failures[i].Load())
	}
	if n := r.events.unknownWords.Load(); n > 0 {
		all[UnknownWords] = n
	}
	return all
}

// AppendHost appends the host's own file, byte for byte, for a request that Acquire has
// answered with err, and counts the reason. It returns err if that has none.
func (r *Registry) AppendHost(dst []byte, f *File, err error, t Turn) ([]byte, error) {
	c := r.requests.Get().(*Container)
	defer c.Release()
	c.turn = t
	return r.appendHost(dst, f, err, c)
}

func (r *Registry) appendHost(dst []byte, f *File, err error, c *Container) ([]byte, error) {
	if err := r.fallBack(f, err); err != nil {
		return dst, err
	}
	if c.state != nil {
		c.fallbacks.Add(1)
		c.lastFallback.Store(uint32(f.index)<<8 | uint32(reasonOf(err)+1))
	}
	if r.hostPace[f.index].isSlow() {
		if err := c.turn.Block(c.init.Owner); err != nil {
			return dst, err
		}
	}
	start := time.Now()
	text, err := r.readHost(f.Path, c.host)
	took := time.Since(start)
	c.took += took
	r.hostPace[f.index].took(took, r.slowAfter)
	if err != nil {
		return dst, err
	}
	c.host = text
	return append(dst, text...), nil
}
