// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"runtime"
	"slices"
	"time"

	"vprocfs/internal/mountinfo"
)

// scan looks at all processes and has containers attached, but those that are complete,
// which a function reports from a sighting and the superblock of the view. It returns the
// processes that may become containers.
func (w *watcher) scan(complete func(s *sighting, view uint64) bool) (unready []int) {
	begin := time.Now()
	views, err := mountinfo.Views(w.proc.root)
	if err != nil {
		w.Log.Warn("the processes cannot be listed", "err", err)
		return nil
	}
	dev, err := w.proc.view(w.Dir)
	if err != nil {
		w.Log.Warn("the mounts cannot be listed", "err", err)
		return nil
	}
	found := 0
	for _, v := range views {
		runtime.Gosched() // an event does not wait for the scan, also with one thread (GOMAXPROCS)
		for _, pid := range v.PIDs {
			// Pids are used again: the lowest is not always that of the init.
			pid = w.proc.eldest(pid)
			s, err := w.proc.look(&w.Rules, pid)
			if err != nil && !errors.Is(err, errOrphaned) {
				continue // it has ended; others have the same view
			}
			switch {
			case err != nil, s.verdict == notYet:
				unready = append(unready, pid)
			case s.verdict == ready && !complete(&s, dev):
				found++
				w.attachLater(job{pid: pid, ns: s.ns, seen: begin})
			}
			break
		}
	}
	w.Log.Debug("searched for containers", "found", found, "took", time.Since(begin))
	return unready
}

// has reports whether the view dev is mounted in the container.
func (s *sighting) has(dev uint64) bool { return dev != 0 && slices.Contains(s.views, dev) }
