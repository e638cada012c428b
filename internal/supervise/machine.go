// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// A machine decides what a holder does. Step takes one event and returns the actions
// that follow from it. A machine has no goroutines, clocks or I/O, so that a test can
// take it through every order of events. A copy of a machine is another machine.
type machine struct {
	pace pace
	// program is the path of an upgrade's binary, and self this process, for the log.
	program string
	self    int

	now     time.Time
	actions []action
	lastID  procID

	worker proc // id 0: none
	next   proc // the candidate of an upgrade; id 0: none
	// upgrade is the upgrade that is under way.
	upgrade upgrade

	probed    bool   // a worker has been probed
	inherited bool   // the mount is older than this process, so containers may use it
	toggled   bool   // Toggle was asked for an odd number of times
	crashed   bool   // the last worker crashed or hung
	level     string // that a client asked for, empty for none
	tally     Tally

	over    bool // the worker said that there is nothing left to do
	overErr error
	aborted bool // the worker said that its connection was aborted

	backoff backoff // before the next worker
	renewal backoff // before the next connection
	renewed time.Time
	// renewFailed is true if the last attempt at a new connection failed.
	renewFailed bool

	down time.Time // when the outage began; zero: none
	// Deadlines; zero: none.
	startAt time.Time // start a worker
	renewAt time.Time // make a new connection
	pingAt  time.Time // ask the worker whether it works
	pongBy  time.Time // the worker must have answered
	overBy  time.Time // the worker that said msgOver must have ended
	stopBy  time.Time // this process must have ended

	unmounting bool
	exitErr    error
	done       bool
}

// proc is a process as the machine sees it.
type proc struct {
	id      procID
	pid     int
	begun   time.Time // when it was started, or promoted
	serving time.Time // zero: it does not serve yet
	settled bool      // it has been asked goodAfter later whether it works
	ready   bool      // a candidate that waits for its turn
	killed  string    // why it was killed; empty: it was not
}

// step handles one event. The actions are to be done in their order.
func (m *machine) step(now time.Time, e event) []action {
	m.now, m.actions = now, nil
	if !m.done {
		m.handle(e)
	}
	return m.actions
}

func (m *machine) handle(e event) {
	switch e := e.(type) {
	case started:
		m.start(e)
	case adopted:
		m.adopt(e)
	case due:
		m.due()
	case spawned:
		m.spawned(e)
	case received:
		if p := m.find(e.id); p != nil {
			m.receive(p, e)
		}
	case hungUp:
		m.hungUp(e)
	case ended:
		m.ended(e)
	case probeEnded:
		m.probeEnded(e)
	case upgradeAsked:
		m.upgradeAsked(e.client)
	case execFailed:
		m.endUpgrade(fmt.Errorf("the new worker works, but this process could not become the new program: %w", e.err))
	case levelAsked:
		m.level = e.level
		if !m.worker.begun.IsZero() {
			m.do(order{m.worker.id, msgLevel, e.level})
		}
	case toggleAsked:
		m.toggled = !m.toggled
		if !m.worker.begun.IsZero() { // one that has not begun hears it with msgGo
			m.do(order{m.worker.id, msgToggle, ""})
		}
	case stopAsked:
		m.stopAsked(e)
	case unmounted:
		m.unmounted(e)
	case renewEnded:
		m.renewEnded(e)
	default:
		panic(fmt.Sprintf("%T is no event", e))
	}
}

// A timer is something to do at a time; the zero time is never.
type timer struct {
	at time.Time
	do func(*machine)
}

// timers returns all timers, in the order in which due handles them.
func (m *machine) timers() [9]timer {
	switch {
	case m.done:
		return [9]timer{}
	case !m.stopBy.IsZero():
		return [9]timer{{m.stopBy, (*machine).stopTimedOut}}
	}
	return [9]timer{
		{m.outageEnd(), (*machine).giveUp},
		{m.overBy, (*machine).overTimedOut},
		{m.startAt, (*machine).startWorker},
		{m.renewAt, (*machine).renew},
		{m.pongBy, (*machine).pongTimedOut},
		{m.beginBy(&m.worker), (*machine).startTimedOut},
		{m.beginBy(&m.next), (*machine).candidateTimedOut},
		{m.settleAt(&m.worker), (*machine).settle},
		{m.pingAt, (*machine).heartbeat},
	}
}

// deadline returns when step wants to see a due event. It is zero for never.
func (m *machine) deadline() (t time.Time) {
	for _, next := range m.timers() {
		if !next.at.IsZero() && (t.IsZero() || next.at.Before(t)) {
			t = next.at
		}
	}
	return t
}

// due does what is due now.
func (m *machine) due() {
	for i := range m.timers() {
		// They are taken anew each time: what is due may change those after it.
		if t := m.timers()[i]; !t.at.IsZero() && !m.now.Before(t.at) {
			t.do(m)
		}
	}
}

func (m *machine) outageEnd() time.Time {
	if m.down.IsZero() {
		return m.down
	}
	return m.down.Add(m.pace.maxOutage)
}

// beginBy is when p must be at work, or ready if it is the candidate.
func (m *machine) beginBy(p *proc) (t time.Time) {
	if p.id == 0 || p.begun.IsZero() || p.killed != "" || p.ready || !p.serving.IsZero() {
		return t
	}
	return p.begun.Add(startTimeout)
}

// settleAt is when p, the worker, has served for goodAfter.
func (m *machine) settleAt(p *proc) (t time.Time) {
	if p.id == 0 || p.settled || p.killed != "" || p.serving.IsZero() {
		return t
	}
	return p.serving.Add(goodAfter)
}

// start begins without a worker.
func (m *machine) start(e started) {
	m.inherited = e.inherited
	m.down = m.now
	m.pingAt = m.now.Add(m.pace.pingEvery)
	// There may be no worker for maxOutage, and then it has to be probed.
	m.tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (m.pace.maxOutage + 2*probeTimeout).Microseconds()))
	m.startWorker()
}

// adopt begins with a worker of another holder.
func (m *machine) adopt(e adopted) {
	m.inherited = true
	m.toggled, m.level, m.tally = e.toggled, e.level, e.tally
	m.worker = proc{id: m.newID(), pid: e.pid, begun: m.now, serving: m.now, settled: true}
	m.pingAt = m.now.Add(m.pace.pingEvery)
	if !e.upgraded {
		m.do(probe{m.worker.id, probeTimeout})
		return
	}
	// To become this program was the last step of an upgrade.
	m.probed = true
	m.tally.Upgrades++
	m.log(slog.LevelInfo, "upgraded", "pid", m.self, "worker", e.pid, "program", m.program)
	m.do(reply{e.client, nil})
	m.tell("READY=1")
}

func (m *machine) do(a action) { m.actions = append(m.actions, a) }

// tell notifies systemd.
func (m *machine) tell(state string) { m.do(notify{state}) }

func (m *machine) log(level slog.Level, msg string, args ...any) {
	m.do(logged{level, msg, args})
}

func (m *machine) newID() procID {
	m.lastID++
	return m.lastID
}

// find returns nil for a process that is none of ours any more.
func (m *machine) find(id procID) *proc {
	switch {
	case id == 0:
		return nil
	case id == m.worker.id:
		return &m.worker
	case id == m.next.id:
		return &m.next
	}
	return nil
}

// startWorker starts a worker of the program that this process runs.
func (m *machine) startWorker() {
	m.startAt = time.Time{}
	m.worker = proc{id: m.newID()}
	m.do(spawn{id: m.worker.id})
}

func (m *machine) spawned(e spawned) {
	switch p := m.find(e.id); {
	case p == nil:
	case e.err != nil && p == &m.next:
		m.next = proc{}
		m.endUpgrade(e.err)
	case e.err != nil:
		m.worker = proc{}
		m.log(slog.LevelError, "worker not started", "err", e.err, "again", m.scheduleStart())
	default:
		p.pid, p.begun = e.pid, m.now
		if p == &m.worker && m.stopBy.IsZero() {
			m.begin(p)
		}
	}
}

// begin tells p to work.
func (m *machine) begin(p *proc) {
	var text []string
	if m.crashed {
		text = append(text, crashed)
	}
	if m.toggled {
		text = append(text, toggled)
	}
	if m.level != "" {
		text = append(text, levelIs+m.level)
	}
	m.do(order{p.id, msgGo, strings.Join(text, " ")})
}

// scheduleStart starts a worker after the back-off, which it returns.
func (m *machine) scheduleStart() time.Duration {
	wait := m.backoff.next(minBackoff, maxBackoff)
	m.startAt = m.now.Add(wait)
	return wait
}
