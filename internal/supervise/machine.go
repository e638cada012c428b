package supervise

import (
	"fmt"
	"log/slog"
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

	probed    bool // a worker has been probed
	inherited bool // the mount is older than this process, so containers may use it
	toggled   bool // Toggle was asked for an odd number of times
	crashed   bool // the last worker crashed or hung

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
	toggled bool      // what it was told of machine.toggled
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
	case spawnFailed:
		m.spawnFailed(e)
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
	case toggleAsked:
		m.toggled = !m.toggled
		if m.worker.id != 0 && !m.worker.begun.IsZero() {
			m.syncToggle(&m.worker)
		}
	case stopAsked:
		m.stopAsked(e)
	case unmounted:
		m.unmounted(e)
	case renewEnded:
		m.renewEnded(e)
	}
}

// deadline returns when step wants to see a due event. It is zero for never.
func (m *machine) deadline() (t time.Time) {
	sooner := func(d time.Time) {
		if !d.IsZero() && (t.IsZero() || d.Before(t)) {
			t = d
		}
	}
	if m.done {
		return t
	}
	if !m.stopBy.IsZero() {
		return m.stopBy
	}
	sooner(m.startAt)
	sooner(m.renewAt)
	sooner(m.pingAt)
	sooner(m.pongBy)
	sooner(m.overBy)
	sooner(m.outageEnd())
	for _, p := range []*proc{&m.worker, &m.next} {
		sooner(m.beginBy(p))
		sooner(m.settleAt(p))
	}
	return t
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

// due does what is due now.
func (m *machine) due() {
	isDue := func(t time.Time) bool { return !m.done && !t.IsZero() && !m.now.Before(t) }
	if !m.stopBy.IsZero() {
		if isDue(m.stopBy) {
			m.stopTimedOut()
		}
		return
	}
	if isDue(m.outageEnd()) {
		m.giveUp()
	}
	if isDue(m.overBy) {
		m.kill(&m.worker, "nothing left to do")
		m.exit(m.overErr)
	}
	if isDue(m.startAt) {
		m.startAt = time.Time{}
		m.startWorker()
	}
	if isDue(m.renewAt) {
		m.renewAt = time.Time{}
		m.do(renew{})
	}
	if isDue(m.pongBy) {
		m.kill(&m.worker, fmt.Sprintf("no answer for %s", pingTimeout))
	}
	if isDue(m.beginBy(&m.worker)) {
		m.kill(&m.worker, fmt.Sprintf("not at work after %s", startTimeout))
	}
	if isDue(m.beginBy(&m.next)) {
		m.dropCandidate(fmt.Errorf("the new worker was not at work after %s", startTimeout))
	}
	if isDue(m.settleAt(&m.worker)) {
		m.worker.settled = true
		m.ask()
	}
	if isDue(m.pingAt) {
		m.pingAt = m.now.Add(m.pace.pingEvery)
		if !m.down.IsZero() || m.worker.id == 0 {
			m.tell("WATCHDOG=1") // maxOutage says how long that may last, not systemd
		}
		m.ask()
	}
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
	m.toggled = e.toggled
	m.worker = proc{id: m.newID(), pid: e.pid, begun: m.now, serving: m.now, settled: true, toggled: e.toggled}
	m.pingAt = m.now.Add(m.pace.pingEvery)
	if !e.upgraded {
		m.do(probe{m.worker.id, probeTimeout})
		return
	}
	// To become this program was the last step of an upgrade.
	m.probed = true
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
	m.worker = proc{id: m.newID(), toggled: m.toggled}
	m.do(spawn{id: m.worker.id, crashed: m.crashed, toggled: m.toggled})
}

func (m *machine) spawned(e spawned) {
	p := m.find(e.id)
	if p == nil {
		return
	}
	p.pid, p.begun = e.pid, m.now
	if p == &m.worker && m.stopBy.IsZero() {
		m.begin(p)
	}
}

func (m *machine) spawnFailed(e spawnFailed) {
	switch {
	case e.id == m.next.id:
		m.next = proc{}
		m.endUpgrade(e.err)
	case e.id == m.worker.id:
		m.worker = proc{}
		m.log(slog.LevelError, "worker not started", "err", e.err, "again", m.scheduleStart())
	}
}

// begin tells p to work. A candidate hears what has changed since it was started.
func (m *machine) begin(p *proc) {
	m.syncToggle(p)
	rest := ""
	if m.crashed {
		rest = crashed
	}
	m.do(send{p.id, msgGo, rest})
}

func (m *machine) syncToggle(p *proc) {
	if p.toggled != m.toggled {
		p.toggled = m.toggled
		m.do(send{p.id, msgToggle, ""})
	}
}

// scheduleStart starts a worker after the back-off, which it returns.
func (m *machine) scheduleStart() time.Duration {
	wait := m.backoff.next(minBackoff, maxBackoff)
	m.startAt = m.now.Add(wait)
	return wait
}
