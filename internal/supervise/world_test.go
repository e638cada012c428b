// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// world is all that is around a machine, under virtual time: processes, clients and
// whoever waits for a worker. It checks the promises of the package after each event.
// A copy made by clone is another world.
type world struct {
	m   machine
	now time.Duration // since the world began

	alive    bool // the holder
	procs    []simProc
	pending  []simEvent // sorted by time
	failures int        // how many spawns, execs of an upgrade or renewals fail; -1: all
	clients  []clientID // who has no reply yet
	lastPeer clientID
	asked    int // upgrades
	tried    int // candidates

	abandoned bool          // the outage was too long
	over      bool          // the connection is aborted or unmounted, or has no descriptor left: nobody waits
	unhappy   time.Duration // since when no worker works; -1: one does
	blind     bool          // something else happened before a hang was found out
	none      time.Duration // since when there is no worker process, and none was tried to start; -1: not so
	spawns    []time.Duration
	stops     []time.Duration
	broken    string // the promise that was broken first
}

// simProc is a process of the world.
type simProc struct {
	id        procID
	candidate bool // it has not begun
	serving   bool
	hung      bool // it answers nothing
	stuck     bool // nor does it die
	killed    bool
}

type simEvent struct {
	at    time.Duration
	event event // nil: a new holder adopts the worker
}

// How long things take in the world.
const (
	beginTakes = 5 * time.Millisecond
	pongTakes  = time.Millisecond
	deathTakes = time.Millisecond
	probeTakes = 5 * time.Millisecond
)

// simPace has the pings of the unit's WatchdogSec=30s.
var simPace = newPace(30*time.Second, 30*time.Second)

func epoch(d time.Duration) time.Time { return time.Unix(1e9, 0).Add(d) }

// newWorld returns a world in which the first worker has just begun.
func newWorld() *world {
	w := &world{alive: true, unhappy: 0, none: -1}
	w.m = machine{pace: simPace}
	w.step(started{})
	return w
}

func (w *world) clone() *world {
	c := *w
	c.m.actions = nil
	c.procs, c.pending = slices.Clone(w.procs), slices.Clone(w.pending)
	c.clients, c.spawns, c.stops = slices.Clone(w.clients), slices.Clone(w.spawns), slices.Clone(w.stops)
	return &c
}

// fail notes a promise that is broken.
func (w *world) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...) + fmt.Sprintf(" (after %v)", w.now)
	}
}

func (w *world) proc(id procID) *simProc {
	for i := range w.procs {
		if w.procs[i].id == id {
			return &w.procs[i]
		}
	}
	return nil
}

// worker returns the process that serves or is to serve, or nil.
func (w *world) worker() *simProc {
	for i := range w.procs {
		if !w.procs[i].candidate {
			return &w.procs[i]
		}
	}
	return nil
}

func (w *world) works() bool {
	p := w.worker()
	return p != nil && p.serving && !p.hung && !p.stuck && !p.killed
}

// later adds a pending event.
func (w *world) later(after time.Duration, e event) {
	at := w.now + after
	i := len(w.pending)
	for i > 0 && w.pending[i-1].at > at {
		i--
	}
	w.pending = slices.Insert(w.pending, i, simEvent{at, e})
}

// step hands an event to the machine, as Holder.step does.
func (w *world) step(e event) {
	queue := []event{e}
	for len(queue) > 0 && w.alive {
		e, queue = queue[0], queue[1:]
		for _, a := range w.m.step(epoch(w.now), e) {
			if answer := w.do(a); answer != nil {
				queue = append(queue, answer)
			}
		}
	}
	w.check()
}

func (w *world) do(a action) event {
	switch a := a.(type) {
	case spawn:
		if a.candidate {
			w.tried++
		} else {
			w.spawned()
		}
		if w.failures != 0 {
			w.failures = max(w.failures-1, -1)
			return spawned{a.id, 0, errors.New("EAGAIN")}
		}
		w.procs = append(w.procs, simProc{id: a.id, candidate: a.candidate})
		if a.candidate {
			w.later(beginTakes, received{a.id, message{word: msgReady}})
		}
		return spawned{a.id, int(a.id), nil}
	case order:
		w.sent(a)
	case kill:
		if p := w.proc(a.id); p != nil && !p.killed {
			p.killed = true
			if q := w.m.find(a.id); p.hung && q != nil && !strings.HasPrefix(q.killed, "no answer") {
				w.blind = true // an upgrade, or a probe
			}
			if !p.stuck {
				w.later(deathTakes, hungUp(a))
				w.later(deathTakes, ended{a.id, exit{text: "killed", status: -1}})
			}
		}
	case probe:
		if p := w.proc(a.id); p != nil && p.serving && !p.hung && !p.stuck && !p.killed {
			w.later(probeTakes, probeEnded{a.id, nil})
		} else {
			w.later(a.timeout, probeEnded{a.id, errors.New("no answer")})
		}
	case become:
		if w.failures != 0 {
			w.failures = max(w.failures-1, -1)
			return execFailed{errors.New("ENOMEM")}
		}
		w.become(a)
	case reply:
		w.replied(a.client)
	case unmount:
		w.over = true
		w.later(time.Millisecond, unmounted{})
	case renew:
		if w.failures != 0 {
			w.failures = max(w.failures-1, -1)
			return renewEnded{errors.New("EBUSY")}
		}
		w.over = false
		return renewEnded{}
	case abandon:
		w.over, w.abandoned = true, true
	case exitWith:
		w.exited()
	}
	return nil
}

// spawned checks that there is no storm.
func (w *world) spawned() {
	const most = 12
	w.none = -1
	w.spawns = append(w.spawns, w.now)
	if n := len(w.spawns); n > most {
		if w.spawns[0] > w.now-time.Second {
			w.fail("%d workers in %v", n, w.now-w.spawns[0])
		}
		w.spawns = w.spawns[1:]
	}
}

func (w *world) sent(a order) {
	p := w.proc(a.id)
	if p == nil {
		w.fail("%q is sent to a process that is gone", a.word)
		return
	}
	switch a.word {
	case msgGo:
		if other := w.worker(); other != nil && other != p {
			w.fail("two servers")
		}
		p.candidate = false
		w.later(beginTakes, received{a.id, message{word: msgServing}})
	case msgPing:
		w.later(pongTakes, received{a.id, message{word: msgPong}})
	case msgStop:
		if !p.hung && !p.stuck && !p.killed {
			p.killed = true
			w.later(deathTakes, hungUp{a.id})
			w.later(deathTakes, ended{a.id, exit{text: "exit status 0"}})
		}
	}
}

func (w *world) replied(c clientID) {
	if c == 0 {
		return
	}
	i := slices.Index(w.clients, c)
	if i < 0 {
		w.fail("client %d gets a second reply", c)
		return
	}
	w.clients = slices.Delete(w.clients, i, i+1)
}

// become makes the holder another one with the same worker, as execve(2) does.
func (w *world) become(a become) {
	w.keepOnly(a.worker)
	w.m = machine{pace: simPace}
	w.later(0, adopted{pid: 1, upgraded: true, client: a.client})
}

// keepOnly drops all processes but the worker, which is the new machine's first.
func (w *world) keepOnly(worker procID) {
	w.pending = slices.DeleteFunc(w.pending, func(e simEvent) bool { return e.event != nil })
	w.procs = slices.DeleteFunc(w.procs, func(p simProc) bool { return p.id != worker })
	for i := range w.procs {
		w.procs[i].id = 1
		if w.procs[i].killed && !w.procs[i].stuck {
			w.later(deathTakes, ended{1, exit{text: "killed", status: -1}})
		} else if !w.procs[i].serving {
			w.procs[i].serving = true // it says so to nobody
		}
	}
}

// exited checks what a holder leaves behind.
func (w *world) exited() {
	if w.m.probed && len(w.stops) == 0 && !w.abandoned {
		w.fail("the holder ends, and nobody asked for it")
	}
	w.alive, w.over = false, true
	for _, p := range w.procs {
		if !p.killed {
			w.fail("process %d is left behind", p.id)
		}
	}
	if len(w.clients) > 0 {
		w.fail("clients %v get no reply", w.clients)
	}
}

// advance lets time pass.
func (w *world) advance(d time.Duration) {
	end := w.now + d
	for w.broken == "" {
		next, isTimer := end+1, false
		if t := w.m.deadline(); w.alive && !t.IsZero() {
			next, isTimer = max(t.Sub(epoch(0)), w.now), true
		}
		if len(w.pending) > 0 && w.pending[0].at <= next {
			next, isTimer = w.pending[0].at, false
		}
		if next > end {
			break
		}
		w.now = next
		if isTimer {
			w.step(due{})
			continue
		}
		e := w.pending[0].event
		w.pending = w.pending[1:]
		w.arrive(e)
	}
	w.now = end
	w.check()
}

// arrive is a pending event that comes now.
func (w *world) arrive(e event) {
	switch e := e.(type) {
	case nil:
		w.newHolder()
		return
	case ended:
		i := slices.IndexFunc(w.procs, func(p simProc) bool { return p.id == e.id && !p.stuck })
		if i < 0 {
			return
		}
		w.procs = slices.Delete(w.procs, i, i+1)
	case received:
		p := w.proc(e.id)
		if p == nil || p.hung || p.stuck || p.killed {
			return
		}
		p.serving = p.serving || e.word == msgServing
	case probeEnded:
		if p := w.proc(e.id); e.err == nil && (p == nil || p.hung || p.stuck || p.killed) {
			w.later(probeTimeout, probeEnded{e.id, errors.New("no answer")})
			return
		}
	}
	if w.alive {
		w.step(e)
	}
	w.check()
}

// newHolder is one that the worker has started.
func (w *world) newHolder() {
	p := w.worker()
	if p == nil || p.hung || p.stuck || p.killed {
		w.over = true // nobody is left to do anything
		return
	}
	w.alive = true
	w.keepOnly(p.id)
	w.m = machine{pace: simPace}
	w.step(adopted{pid: 1})
}

// check checks the promises that can be broken by time.
func (w *world) check() {
	switch {
	case w.works() || w.over:
		w.unhappy, w.blind = -1, false
	case w.unhappy < 0:
		w.unhappy = w.now
	}
	limit := simPace.maxOutage
	if w.blind {
		limit += simPace.unnoticed()
	}
	if w.unhappy >= 0 && w.now-w.unhappy > limit {
		w.fail("no worker works since %v", w.unhappy)
	}
	switch {
	case w.worker() != nil || w.over || len(w.stops) > 0 || !w.alive:
		w.none = -1
	case w.none < 0:
		w.none = w.now
	case w.now-w.none > maxBackoff:
		w.fail("no worker is started since %v", w.none)
	}
	if w.alive && len(w.stops) > 0 && w.now-w.stops[0] > stopTimeout {
		w.fail("the stop does not end")
	}
	if w.alive && len(w.stops) > 1 {
		w.fail("the second stop does not end it at once")
	}
	if w.tried > w.asked {
		w.fail("%d candidates for %d upgrades", w.tried, w.asked)
	}
}

// checkEnd checks, when nothing has happened for long, that all is well or over.
func (w *world) checkEnd() {
	switch {
	case !w.alive:
	case len(w.clients) > 0:
		w.fail("clients %v wait for ever", w.clients)
	case !w.works() && w.failures >= 0:
		w.fail("there is no worker that works")
	case !w.m.down.IsZero():
		w.fail("the outage does not end")
	}
}

// deed is something that happens to a holder and its processes.
type deed int

const (
	workerDies deed = iota
	workerLingers
	workerSticks
	workerHangs
	connectionAborted
	holderDies
	upgradeComes
	stopComes
	outageLasts
	spawnFails
	spawnsFail
	deeds
)

func (d deed) String() string {
	return strings.Fields("worker-dies dead-worker-cannot-be-reaped worker-cannot-be-reaped worker-hangs connection-aborted holder-dies upgrade stop outage-lasts spawn-fails all-spawns-fail")[d]
}

// happen has a deed happen now.
func (w *world) happen(d deed) {
	p := w.worker()
	if p != nil && p.hung && !p.killed && d != workerHangs && d != workerSticks {
		w.blind = true
	}
	switch d {
	case workerDies:
		if p != nil && !p.stuck && !p.killed {
			p.killed = true
			w.arrive(hungUp{p.id})
			w.arrive(ended{p.id, exit{text: "crashed", status: 2, crashed: true}})
		}
	case workerLingers:
		if p != nil && !p.stuck && !p.killed {
			p.killed, p.stuck = true, true
			w.arrive(hungUp{p.id})
		}
	case workerSticks, workerHangs:
		if p != nil && !p.killed {
			p.hung, p.stuck = true, p.stuck || d == workerSticks
			w.check()
		}
	case connectionAborted:
		if w.works() && w.alive {
			w.over = true
			w.arrive(received{p.id, message{word: msgAborted, rest: "aborted"}})
			w.worker().killed = true
			w.later(deathTakes, hungUp{p.id})
			w.later(deathTakes, ended{p.id, exit{text: "exit status 0"}})
		}
	case holderDies:
		if w.alive {
			w.alive = false
			w.clients, w.stops = nil, nil // their connections end, and nobody tells the next holder
			if p == nil {
				w.over = true // nobody has a descriptor
				w.procs, w.pending = nil, nil
				return
			}
			w.keepOnly(p.id)
			w.later(2*beginTakes, nil)
			w.unhappy = -1 // the next holder counts anew
			w.blind = !w.works()
		}
	case upgradeComes:
		if w.alive {
			w.lastPeer++
			w.asked++
			w.clients = append(w.clients, w.lastPeer)
			w.step(upgradeAsked{w.lastPeer})
		}
	case stopComes:
		if w.alive {
			w.stops = append(w.stops, w.now)
			w.step(stopAsked{"terminated"})
		}
	case outageLasts:
		w.advance(simPace.maxOutage)
	case spawnFails:
		if w.failures >= 0 {
			w.failures++
		}
	case spawnsFail:
		w.failures = -1
	}
}
