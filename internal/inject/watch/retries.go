// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"sync"
	"time"
)

const (
	// maxRetries bounds how many containers wait for another try, and maxRetriesOwner
	// how many of one owner.
	maxRetries      = 1024
	maxRetriesOwner = 64
)

// retryWaits are the times between two tries of a container that could not be attached,
// most likely because the daemon was not there. After the last it is given up.
var retryWaits = [...]time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}

// retries are the containers to be tried again. They are safe for concurrent use.
type retries struct {
	changed func() // called after there is another one

	mu      sync.Mutex
	waiting []retry
}

// retry is a job and when it is due.
type retry struct {
	job job
	at  time.Time
}

func newRetries(changed func()) *retries { return &retries{changed: changed} }

// add has a job that has failed tried again. It returns false if it has failed too often, or
// if too many wait.
func (r *retries) add(j job, now time.Time) bool {
	if j.tries >= len(retryWaits) || !r.insert(retry{job: j, at: now.Add(retryWaits[j.tries])}) {
		return false
	}
	r.changed()
	return true
}

func (r *retries) insert(next retry) bool {
	next.job.tries++
	r.mu.Lock()
	defer r.mu.Unlock()
	same := 0
	for _, w := range r.waiting {
		if w.job.owner == next.job.owner {
			same++
		}
	}
	if len(r.waiting) >= maxRetries || same >= maxRetriesOwner {
		return false
	}
	r.waiting = append(r.waiting, next)
	return true
}

// next returns when a job is due, and false if there is none.
func (r *retries) next() (due time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.waiting {
		if !ok || w.at.Before(due) {
			due, ok = w.at, true
		}
	}
	return due, ok
}

// expired removes and returns the jobs that are due.
func (r *retries) expired(now time.Time) (due []job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.waiting[:0]
	for _, w := range r.waiting {
		if w.at.After(now) {
			left = append(left, w)
		} else {
			due = append(due, w.job)
		}
	}
	r.waiting = left
	return due
}
