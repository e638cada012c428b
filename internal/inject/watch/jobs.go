// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vprocfs/internal/attach"
)

// tryAgain has the containers attached whose retries are due.
func (w *watcher) tryAgain(now time.Time) {
	for _, j := range w.retries.expired(now) {
		s, err := w.proc.look(&w.Rules, j.pid)
		switch {
		case errors.Is(err, errOrphaned):
			w.retries.add(j, now)
		case err == nil && s.verdict == ready && s.ns == j.ns:
			w.attachLater(j)
		}
	}
}

// attachLater has a container attached.
func (w *watcher) attachLater(j job) {
	var err error
	if j.owner, err = w.Owner(j.pid); err != nil {
		return // it has ended
	}
	if !w.queue.push(j) {
		w.fail(j, QueueFull, errQueueFull)
	}
}

// fail counts and logs a container that is not attached, or not wholly, and has it tried
// again. The first failure of a container is a warning.
func (w *watcher) fail(j job, why Reason, err error) {
	again := w.retries.add(j, time.Now())
	if j.tries > 0 {
		w.Log.Debug("a container is still not attached, or not wholly", "pid", j.pid, "tries", j.tries+1, "again", again, "err", err)
		return
	}
	w.Stats.Refuse(why, err.Error())
	w.Log.Warn("a container is not attached, or not wholly", "pid", j.pid, "err", err)
}

var errQueueFull = errors.New("too many containers wait")

// attach begins a job. It has done called when the job has ended.
func (w *watcher) attach(ctx context.Context, j job, done func(hung bool)) {
	alone := func() (hung bool) {
		results, err := w.Attach.AttachAlone(ctx, j.pid, j.ns)
		w.note(ctx, j, results, err)
		return attach.IsHung(err)
	}
	if j.alone {
		go func() { done(alone()) }()
		return
	}
	w.Attach.Start(j.pid, j.ns, func(results []attach.Result, err error) {
		if hung := attach.IsHung(err); hung || errors.Is(err, attach.ErrEnded) {
			go func() { done(alone() || hung) }()
			return
		}
		w.note(ctx, j, results, err)
		done(false)
	})
}

// note counts and logs what became of a job.
func (w *watcher) note(ctx context.Context, j job, results []attach.Result, err error) {
	if ctx.Err() != nil || attach.IsGone(err) {
		return
	}
	why := reasonOf(err)
	for _, r := range results {
		// What somebody has mounted there on purpose stays: LXCFS, another vprocfs.
		if r.Err != nil && !attach.IsOccupied(r.Err) {
			if err == nil {
				why = Files
			}
			err = errors.Join(err, fmt.Errorf("%s: %w", r.Target, r.Err))
		}
	}
	if err != nil {
		w.fail(j, why, err)
		return
	}
	late := j.started && j.tries == 0 && w.proc.runsOwnProgram(j.pid)
	w.Stats.attached(late)
	w.Log.Debug("attached", "pid", j.pid, "mnt", j.ns, "took", time.Since(j.seen), "late", late)
}
