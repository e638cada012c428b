// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ask sends a ping, unless one is not answered yet, or a probe is to tell.
func (m *machine) ask() {
	p := &m.worker
	if p.id == 0 || p.serving.IsZero() || p.killed != "" || !m.pongBy.IsZero() || m.over || m.upgrade.phase >= promoted {
		return
	}
	m.pongBy = m.now.Add(m.pace.pingTimeout)
	m.do(order{p.id, msgPing, ""})
}

// heartbeat asks the worker from time to time, and tells systemd of an outage:
// maxOutage says how long that may last, not systemd.
func (m *machine) heartbeat() {
	m.pingAt = m.now.Add(m.pace.pingEvery)
	if !m.down.IsZero() || m.worker.id == 0 {
		m.tell("WATCHDOG=1")
	}
	m.ask()
}

// settle asks a worker that has served for goodAfter.
func (m *machine) settle() {
	m.worker.settled = true
	m.ask()
}

// pongTimedOut kills a worker that hangs. Callers may have waited since its last answer.
func (m *machine) pongTimedOut() {
	if m.down.IsZero() {
		m.down = m.now.Add(-m.pace.unnoticed())
	}
	m.kill(&m.worker, fmt.Sprintf("no answer for %s", m.pace.pingTimeout))
}

func (m *machine) startTimedOut() {
	m.kill(&m.worker, fmt.Sprintf("not at work after %s", startTimeout))
}

func (m *machine) beginOutage() {
	if m.down.IsZero() {
		m.down = m.now
	}
}

// endOutage: what is served was used.
func (m *machine) endOutage() { m.down = time.Time{} }

// kill ends a process that must not go on. A worker that is killed is an outage from
// then on: nobody knows how long its end takes.
func (m *machine) kill(p *proc, why string) {
	if p.id == 0 {
		return
	}
	if p.killed == "" {
		p.killed = why
	}
	m.do(kill{p.id})
	if p == &m.worker {
		m.pongBy = time.Time{}
		m.beginOutage()
	}
}

// receive handles a message.
func (m *machine) receive(p *proc, e received) {
	switch e.word {
	case msgReady:
		if p == &m.next && !p.ready {
			p.ready = true
			m.replaceWorker()
		}
	case msgServing:
		if p == &m.worker && p.serving.IsZero() {
			m.serves(p)
		}
	case msgPong:
		if p == &m.worker {
			m.pongBy = time.Time{}
			if p.killed == "" && m.now.Sub(p.serving) >= goodAfter {
				m.endOutage()
			}
			m.tell("WATCHDOG=1")
		}
	case msgKeep:
		if m.next.id != 0 {
			m.do(handFile{m.next.id, e.rest})
		}
	case msgOver, msgAborted:
		if p == &m.worker && !m.over {
			m.over, m.aborted = true, e.word == msgAborted
			if e.rest != "" {
				m.overErr = errors.New(e.rest)
			}
			m.overBy = m.now.Add(stopTimeout)
		}
	}
}

// serves handles a worker that is at work.
func (m *machine) serves(p *proc) {
	p.serving = m.now
	m.pongBy = time.Time{}
	// A worker that reports serving counts as a heartbeat.
	m.tell(fmt.Sprintf("WATCHDOG=1\nSTATUS=serving, worker %d", p.pid))
	switch {
	case m.upgrade.phase == promoted:
		m.do(probe{p.id, upgradeTimeout})
	case !m.probed:
		m.do(probe{p.id, probeTimeout})
	}
	m.beginWaitingUpgrade()
}

func (m *machine) probeEnded(e probeEnded) {
	if e.id != m.worker.id || !m.stopBy.IsZero() {
		return // the worker of now is or will be probed
	}
	if e.err == nil && m.worker.killed == "" {
		m.endOutage()
	}
	if m.upgrade.phase == promoted {
		m.upgradeProbed(e.err)
		return
	}
	if m.probed {
		return
	}
	switch {
	case e.err != nil && m.inherited:
		// Containers may use the mount. The mount point may be gone, or the probe have been
		// killed. Pings tell whether the worker works.
		m.log(slog.LevelError, "what is served cannot be read at the mount point: going on", "err", e.err)
	case e.err != nil:
		m.beginStop(e.err)
		return
	}
	m.probed = true
	m.do(serving{m.worker.pid})
	m.tell(fmt.Sprintf("READY=1\nMAINPID=%d", m.self))
	m.beginWaitingUpgrade()
}
