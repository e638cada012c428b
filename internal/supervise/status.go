// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"fmt"
	"slices"
	"time"
)

// Status is what a holder knows of itself and its worker.
type Status struct {
	PID int `json:"pid"`
	// Worker is the pid of the worker, 0 if there is none. Serving says that it serves, and
	// Since since when.
	Worker  int       `json:"worker"`
	Serving bool      `json:"serving"`
	Since   time.Time `json:"since"`
	// Down is when the outage began, nil if there is none: what is served was used since.
	Down *time.Time `json:"down,omitempty"`
	Tally
}

// Tally counts what happened since the holder was started first. It is handed on over an
// upgrade, and lost when the holder dies.
type Tally struct {
	Began time.Time `json:"began"`
	// Restarts are ends of workers that were not wanted, LastRestarts the last of them.
	Restarts     uint64    `json:"restarts"`
	LastRestarts []Restart `json:"last_restarts,omitempty"`
	// Upgrades have succeeded, and FailedUpgrades left the former program at work.
	Upgrades       uint64 `json:"upgrades"`
	FailedUpgrades uint64 `json:"failed_upgrades"`
	LastUpgrade    string `json:"last_upgrade,omitempty"` // why the last one failed
	// Renewals are connections that were made anew after an abort.
	Renewals uint64 `json:"renewals"`
}

// Restart is the end of a worker that another one was started after.
type Restart struct {
	Time   time.Time `json:"time"`
	PID    int       `json:"pid"`
	Reason string    `json:"reason"`
}

// maxRestarts is how many restarts are kept, maxReason the length of a reason in bytes: they
// are handed on in the environment.
const (
	maxRestarts = 8
	maxReason   = 200
)

// restarted notes that a worker has ended.
func (t *Tally) restarted(now time.Time, pid int, reason string) {
	t.Restarts++
	if drop := len(t.LastRestarts) + 1 - maxRestarts; drop > 0 {
		t.LastRestarts = slices.Clone(t.LastRestarts[drop:])
	}
	t.LastRestarts = append(slices.Clip(t.LastRestarts), Restart{now.Round(0), pid, fmt.Sprintf("%.*s", maxReason, reason)})
}

// status returns what the machine knows.
func (m *machine) status() Status {
	s := Status{PID: m.self, Worker: m.worker.pid, Serving: !m.worker.serving.IsZero() && m.worker.killed == "", Since: m.worker.serving, Tally: m.tally}
	if !m.down.IsZero() {
		down := m.down
		s.Down = &down
	}
	return s
}
