// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// An upgrade puts the program that is on disk now to work. A candidate is started
// and tests itself while the worker goes on. When it is ready the worker is killed,
// which no caller notices, and the candidate takes its place as after any death. When
// what it serves was probed, the holder becomes the new program too.

// upgrade is one request for an upgrade.
type upgrade struct {
	phase  phase
	client clientID // who waits for the reply; 0: a signal asked
}

// phase is how far an upgrade is.
type phase int

const (
	idle      phase = iota
	waiting         // for a worker that a candidate can replace
	preparing       // the candidate tests itself
	promoted        // the candidate is the worker
	becoming        // this process executes the new program
)

// errUpgrading is the reply to who asks for a second upgrade.
var errUpgrading = errors.New("another upgrade is under way")

// replaced is why a worker was killed for a candidate.
const replaced = "replaced"

// upgradeAsked begins an upgrade, as soon as there is a worker that works.
func (m *machine) upgradeAsked(c clientID) {
	var err error
	switch {
	case !m.stopBy.IsZero():
		err = errors.New("the daemon stops")
	case m.upgrade.phase != idle:
		err = errUpgrading
	}
	if err != nil {
		m.log(slog.LevelError, "not upgraded", "err", err)
		m.do(reply{c, err})
		return
	}
	m.upgrade = upgrade{waiting, c}
	m.beginWaitingUpgrade()
}

// beginWaitingUpgrade starts the candidate of an upgrade that waits.
func (m *machine) beginWaitingUpgrade() {
	if m.upgrade.phase != waiting || m.worker.serving.IsZero() || m.worker.killed != "" || !m.probed {
		return
	}
	m.log(slog.LevelInfo, "upgrading", "program", m.program)
	m.upgrade.phase = preparing
	m.next = proc{id: m.newID()}
	m.do(spawn{id: m.next.id, candidate: true})
}

// replaceWorker ends the worker; the candidate is ready.
func (m *machine) replaceWorker() {
	if m.worker.id == 0 {
		m.promote()
		return
	}
	m.kill(&m.worker, replaced)
}

// promote makes the candidate the worker: its predecessor is dead.
func (m *machine) promote() {
	m.worker, m.next = m.next, proc{}
	m.worker.ready, m.worker.begun = false, m.now
	m.upgrade.phase = promoted
	m.startAt = time.Time{}
	m.beginOutage()
	m.begin(&m.worker)
}

// upgradeProbed ends an upgrade whose worker serves, or does not.
func (m *machine) upgradeProbed(err error) {
	if err != nil {
		// Its end ends the upgrade, and the former program goes on.
		m.kill(&m.worker, fmt.Sprintf("what it serves failed the probe: %v", err))
		return
	}
	m.upgrade.phase = becoming
	m.do(become{m.worker.id, m.upgrade.client, m.toggled, m.level, m.tally})
}

func (m *machine) candidateTimedOut() {
	m.dropCandidate(fmt.Errorf("the new worker was not at work after %s", startTimeout))
}

// dropCandidate ends an upgrade whose candidate is no good. It has not begun to work,
// so nobody has to wait for its end.
func (m *machine) dropCandidate(err error) {
	m.kill(&m.next, "no use")
	m.next = proc{}
	m.endUpgrade(err)
}

// endUpgrade reports how an upgrade went.
func (m *machine) endUpgrade(err error) {
	if m.upgrade.phase == idle {
		return
	}
	if err != nil {
		m.log(slog.LevelError, "not upgraded, the former program goes on", "err", err)
		m.tally.FailedUpgrades++
		m.tally.LastUpgrade = fmt.Sprintf("%.*s", maxReason, err)
	}
	m.do(reply{m.upgrade.client, err})
	m.upgrade = upgrade{}
}
