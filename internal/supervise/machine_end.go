// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ExitError says that the first worker ended before it began.
type ExitError struct{ Status int }

func (e *ExitError) Error() string { return fmt.Sprintf("the worker ended with status %d", e.Status) }

// hungUp begins an outage: a worker without a control socket is dead, or soon killed
// for want of an answer. It may take long until it is reaped.
func (m *machine) hungUp(e hungUp) {
	if p := m.find(e.id); p != nil && p == &m.worker && !m.over && m.stopBy.IsZero() {
		m.beginOutage()
		if p.killed == "" {
			m.pongBy = m.now.Add(m.pace.pingTimeout)
		}
	}
}

// ended handles the end of a process.
func (m *machine) ended(e ended) {
	switch {
	case e.id == 0:
	case e.id == m.next.id:
		reason := m.next.reason(e.how)
		m.next = proc{}
		m.endUpgrade(fmt.Errorf("the new worker ended before it was ready: %s", reason))
	case e.id == m.worker.id:
		p := m.worker
		m.worker = proc{}
		m.pongBy = time.Time{} // nobody answers that ping any more
		m.workerEnded(p, e.how)
	}
}

// reason is why a process has ended.
func (p *proc) reason(how exit) string {
	if p.killed != "" {
		return p.killed
	}
	return how.text
}

func (m *machine) workerEnded(p proc, how exit) {
	// A worker that died before serving did not clear what killed the one before it:
	// keep the flag.
	m.crashed = how.crashed || p.killed != "" && p.killed != replaced || m.crashed && p.serving.IsZero()
	switch {
	case !m.stopBy.IsZero():
		if !m.unmounting {
			m.exit(m.exitErr)
		}
		return
	case m.aborted:
		m.connectionAborted()
		return
	case m.over:
		m.exit(m.overErr)
		return
	case m.next.ready:
		m.promote()
		return
	case !m.probed && !m.inherited && p.serving.IsZero() && how.status > 0 && p.killed == "":
		m.exit(&ExitError{how.status})
		return
	}
	if m.upgrade.phase >= promoted {
		m.endUpgrade(fmt.Errorf("the new worker ended: %s", p.reason(how)))
	}
	if !p.serving.IsZero() && m.now.Sub(p.serving) >= goodAfter {
		m.backoff = backoff{}
	}
	m.tell("WATCHDOG=1") // to find out that it hung has taken some of systemd's time
	m.beginOutage()
	m.tally.restarted(m.now, p.pid, p.reason(how))
	m.log(slog.LevelWarn, "the worker has ended, starting another", "pid", p.pid, "reason", p.reason(how), "after", m.scheduleStart())
}

// connectionAborted prepares a new connection. Nobody waits for it: requests to the
// aborted one fail at once.
func (m *machine) connectionAborted() {
	m.dropCandidate(errors.New("the connection was aborted"))
	if !m.renewed.IsZero() && m.now.Sub(m.renewed) >= renewalGoodAfter {
		m.renewal = backoff{}
	}
	m.scheduleRenewal()
	m.over, m.aborted, m.overErr, m.overBy = false, false, nil, time.Time{}
	m.endOutage()
}

// scheduleRenewal makes a new connection after the back-off.
func (m *machine) scheduleRenewal() {
	m.renewAt = m.now.Add(m.renewal.next(minRenewal, maxRenewal))
}

func (m *machine) renew() {
	m.renewAt = time.Time{}
	m.do(renew{})
}

// renewEnded starts a worker for the new connection. If there is none, the holder tries
// again: the mount point may come back, or memory.
func (m *machine) renewEnded(e renewEnded) {
	switch {
	case !m.stopBy.IsZero():
	case e.err != nil:
		m.scheduleRenewal()
		m.endUpgrade(e.err)
		if !m.renewFailed {
			m.renewFailed = true
			m.log(slog.LevelError, "not mounted again after an abort, trying on", "err", e.err)
		}
	default:
		m.renewed, m.renewFailed = m.now, false
		m.tally.Renewals++
		m.beginOutage()
		m.startWorker()
	}
}

// overTimedOut ends a worker that has nothing left to do and does not end.
func (m *machine) overTimedOut() {
	m.kill(&m.worker, "nothing left to do")
	m.exit(m.overErr)
}

// stopAsked ends the work; the second time at once.
func (m *machine) stopAsked(e stopAsked) {
	m.log(slog.LevelInfo, "stopping", "signal", e.signal)
	if m.stopBy.IsZero() {
		m.beginStop(nil)
		return
	}
	m.kill(&m.worker, "stopping at once")
	m.exit(m.exitErr)
}

// beginStop unmounts, and then ends the worker. It takes stopTimeout at most.
func (m *machine) beginStop(err error) {
	m.stopBy, m.exitErr = m.now.Add(stopTimeout), err
	m.endUpgrade(errors.New("the daemon stops"))
	m.tell("STOPPING=1")
	m.unmounting = true
	m.do(unmount{})
}

func (m *machine) unmounted(e unmounted) {
	m.unmounting = false
	m.exitErr = errors.Join(m.exitErr, e.err)
	if m.next.id != 0 {
		m.do(order{m.next.id, msgStop, ""})
	}
	if m.worker.id == 0 {
		m.exit(m.exitErr)
		return
	}
	m.do(order{m.worker.id, msgStop, ""})
}

func (m *machine) stopTimedOut() {
	if m.unmounting {
		m.exitErr = errors.Join(m.exitErr, fmt.Errorf("unmount: no answer for %s", stopTimeout))
	}
	m.kill(&m.worker, "stopping")
	m.exit(m.exitErr)
}

// giveUp ends an outage that has lasted too long.
func (m *machine) giveUp() {
	m.tell("STATUS=no worker for too long")
	m.do(abandon{})
	m.kill(&m.worker, "no use")
	m.exit(fmt.Errorf("no worker that works for %s: gave up, so that nobody waits for ever", m.pace.maxOutage))
}

// exit ends this process. A candidate would keep the descriptors.
func (m *machine) exit(err error) {
	m.kill(&m.next, "no use")
	m.endUpgrade(errors.Join(errors.New("the daemon ends"), err))
	m.done = true
	m.do(exitWith{err})
}
