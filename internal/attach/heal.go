// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vprocfs/internal/mountinfo"
)

// healPatience is how long one helper of Heal may take.
const healPatience = 5 * time.Second

// HealOptions are the options of Heal.
type HealOptions struct {
	// Dir is the mount point of the daemon whose view is shown.
	Dir string
	// DryRun changes nothing: the results say what would be done.
	DryRun bool
	// Remove removes dead mounts instead of replacing them, so that the files of the
	// kernel show. No daemon is needed.
	Remove bool
	// Owner returns an id of the outermost container of a process. The mount
	// namespaces of one owner share its time and its helpers.
	Owner func(pid int) (uint64, error)
}

// Namespace is what Heal has done in one mount namespace.
type Namespace struct {
	ID  uint64 // its inode, as in mnt:[4026531841]
	PID int    // a process in it
	// Results are those of the dead mounts.
	Results []Result
	// Err is an error that concerns the whole namespace.
	Err error
}

// errLeft is the error of a namespace that was not tried.
var errLeft = errors.New("left for the next time: other mount namespaces of its container hang")

// Heal replaces every dead mount of our types (and LXCFS's) over a file of procfs
// or sysfs by the file of the living daemon, in all mount namespaces but those of
// this process and of the host's init. It calls each, one call at a time, with
// every namespace in which it found something. A second Heal changes nothing.
//
// Mounts of a daemon that is slow, stopped or about to be replaced are not dead.
//
// A container whose mounts hang costs at most ownerTime of helpers' time, and delays
// no other container.
func Heal(ctx context.Context, o HealOptions, each func(Namespace)) error {
	found, err := suspects(hostProc, o.Owner)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	left := fair(found, func(s *suspect) bool {
		s.look(hostProc, &mu)
		return false
	})
	for _, s := range left {
		s.err = errLeft
	}
	found = slices.DeleteFunc(found, (*suspect).healthy)
	if len(found) == 0 {
		return nil
	}
	if !o.Remove {
		if err := probe(ctx, filepath.Join(o.Dir, "proc/uptime"), patience); err != nil {
			return err
		}
	}
	alive, err := hostMounts(ctx)
	if err != nil {
		return err
	}
	for _, s := range found {
		s.drop(alive) // so that most healthy containers need no helper
	}
	found = slices.DeleteFunc(found, (*suspect).healthy)
	report := func(s *suspect) {
		if s.err == nil && len(s.results) == 0 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		each(Namespace{ID: s.NS, PID: s.PIDs[0], Results: s.results, Err: s.err})
	}
	left = fair(found, func(s *suspect) bool {
		again := s.heal(ctx, o)
		if !again {
			report(s)
		}
		return again
	})
	for _, s := range left {
		s.err = errors.Join(s.err, errLeft)
		report(s)
	}
	return ctx.Err()
}

// healthy reports whether nothing is to be done or said about s.
func (s *suspect) healthy() bool { return len(s.items) == 0 && s.err == nil }

// hostMounts returns the superblocks of our types that are mounted in the mount
// namespace of this process and are not dead.
func hostMounts(ctx context.Context) (map[uint64]bool, error) {
	mounts, err := mountinfo.Load(hostProc + "/self/mountinfo")
	if err != nil {
		return nil, err
	}
	alive := make(map[uint64]bool)
	var points []*suspect
	for _, m := range mounts {
		if slices.Contains(types, m.FSType) && !alive[m.Dev] {
			alive[m.Dev] = true
			points = append(points, &suspect{owner: m.Dev, items: []item{{Point: m.Point, dev: m.Dev}}})
		}
	}
	var mu sync.Mutex
	fair(points, func(s *suspect) bool {
		err := probe(ctx, s.items[0].Point, healPatience)
		mu.Lock()
		defer mu.Unlock()
		alive[s.owner] = err == nil || errors.Is(err, errHung)
		return false
	})
	return alive, nil
}

// heal has a helper replace the dead mounts of s. It returns true if the helper
// hung and mounts of other superblocks are left to do.
func (s *suspect) heal(ctx context.Context, o HealOptions) (again bool) {
	if len(s.items) == 0 || ctx.Err() != nil {
		return false
	}
	results, err := run(ctx, job{PID: s.PIDs[0], NS: s.NS, Dir: o.Dir, DryRun: o.DryRun, Remove: o.Remove, Items: s.items}, healPatience)
	done := len(results)
	s.results = append(s.results, slices.DeleteFunc(results, func(r Result) bool { return r.State == Gone })...)
	switch {
	case err == nil, errors.Is(err, errGone): // a container that ends is no failure
		return false
	case !errors.Is(err, errHung), done == len(s.items):
		s.err = errors.Join(s.err, err)
		return false
	}
	// The file system of the next item does not answer, so it is not dead. The
	// items of other superblocks may be.
	hung := s.items[done]
	s.err = errors.Join(s.err, fmt.Errorf("%s: %w", hung.Point, err))
	s.items = s.items[done:]
	s.drop(map[uint64]bool{hung.dev: true})
	return len(s.items) > 0
}
