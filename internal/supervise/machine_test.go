// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// gaps are how long after the one before a deed happens: at once, while a worker
// begins, when it has settled, and while a ping is not answered.
var gaps = []time.Duration{0, 3 * time.Millisecond, 200 * time.Millisecond, 12 * time.Second}

// explorer takes worlds through all orders of deeds. Two worlds that differ in
// nothing but what the time is go on alike, so that one of them is enough.
type explorer struct {
	t     *testing.T
	gaps  []time.Duration
	seen  map[worldKey]int // the greatest depth from which it was explored
	trail []happened
}

type happened struct {
	gap  time.Duration
	deed deed
}

func (x *explorer) explore(w *world, depth int) {
	x.wantKept(w)
	k := w.key()
	most, ok := x.seen[k]
	if ok && most >= depth {
		return
	}
	x.seen[k] = depth
	if !ok {
		x.end(w)
	}
	if depth == 0 {
		return
	}
	for _, gap := range x.gaps {
		waited := w.clone()
		waited.advance(gap)
		for d := range deeds {
			x.trail = append(x.trail, happened{gap, d})
			next := waited.clone()
			next.happen(d)
			x.explore(next, depth-1)
			x.trail = x.trail[:len(x.trail)-1]
		}
	}
}

// end lets nothing more happen.
func (x *explorer) end(w *world) {
	w = w.clone()
	for range 8 {
		w.advance(20 * time.Second)
	}
	w.checkEnd()
	x.wantKept(w)
}

func (x *explorer) wantKept(w *world) {
	x.t.Helper()
	if w.broken == "" {
		return
	}
	x.t.Errorf("broken: %s; before it:", w.broken)
	for _, h := range x.trail {
		x.t.Errorf("%v later: %v", h.gap, h.deed)
	}
	x.t.FailNow()
}

// TestPromisesHoldInEveryOrder takes a holder through all orders of up to six deeds,
// each so long after the one before.
func TestPromisesHoldInEveryOrder(t *testing.T) {
	for _, gap := range gaps {
		x := &explorer{t: t, gaps: []time.Duration{gap}, seen: make(map[worldKey]int)}
		x.explore(newWorld(), 6)
		t.Logf("%v apart: %d worlds", gap, len(x.seen))
	}
}

// TestPromisesHoldAtAnyTime takes it through all orders of three deeds with all
// combinations of times between them.
func TestPromisesHoldAtAnyTime(t *testing.T) {
	x := &explorer{t: t, gaps: gaps, seen: make(map[worldKey]int)}
	x.explore(newWorld(), 4)
	t.Logf("%d worlds", len(x.seen))
}

type worldKey [16]byte

// key tells worlds apart that may go on differently.
func (w *world) key() (k worldKey) {
	var b []byte
	num := func(n int64) { b = binary.AppendVarint(b, n) }
	flag := func(flags ...bool) {
		for _, f := range flags {
			if f {
				b = append(b, 1)
			} else {
				b = append(b, 0)
			}
		}
	}
	// since is how long ago d was; what is longer ago than most makes no difference.
	since := func(d, most time.Duration) {
		if d < 0 {
			num(-1)
		} else {
			num(int64(min(w.now-d, most)))
		}
	}
	at := func(t time.Time, most time.Duration) {
		if t.IsZero() {
			num(-1 << 60)
		} else {
			num(int64(min(epoch(w.now).Sub(t), most)))
		}
	}
	const long = time.Hour
	m := &w.m
	id := func(i procID) { num(int64(m.lastID - i)) }
	for _, p := range []*proc{&m.worker, &m.next} {
		if flag(p.id != 0); p.id == 0 {
			continue
		}
		id(p.id)
		at(p.begun, startTimeout+1)
		at(p.serving, goodAfter)
		flag(p.settled, p.ready, p.killed != "", p.killed == replaced)
	}
	num(int64(m.upgrade.phase))
	num(int64(w.lastPeer - m.upgrade.client))
	flag(m.probed, m.inherited, m.toggled, m.crashed, m.over, m.overErr != nil, m.aborted, m.renewFailed, m.unmounting, m.exitErr != nil, m.done)
	num(int64(m.backoff.wait))
	num(int64(m.renewal.wait))
	at(m.renewed, renewalGoodAfter)
	for _, t := range []time.Time{m.down, m.startAt, m.renewAt, m.pingAt, m.pongBy, m.overBy, m.stopBy} {
		at(t, long)
	}
	flag(w.alive, w.over, w.abandoned, w.blind)
	num(int64(len(w.procs)))
	for _, p := range w.procs {
		id(p.id)
		flag(p.candidate, p.serving, p.hung, p.stuck, p.killed)
	}
	num(int64(len(w.pending)))
	for _, e := range w.pending {
		num(int64(e.at - w.now))
		switch e := e.event.(type) {
		case nil:
			num(1)
		case received:
			id(e.id)
			b = append(b, e.word...)
		case hungUp:
			num(6)
			id(e.id)
		case ended:
			num(2)
			id(e.id)
			flag(e.how.crashed)
		case probeEnded:
			num(3)
			id(e.id)
			flag(e.err != nil)
		case unmounted:
			num(4)
		case adopted:
			num(5)
			num(int64(w.lastPeer - e.client))
		default:
			panic(fmt.Sprintf("%T is not in the key", e))
		}
	}
	num(int64(w.failures))
	num(int64(len(w.clients)))
	for _, c := range w.clients {
		num(int64(w.lastPeer - c))
	}
	num(int64(w.asked - w.tried))
	since(w.unhappy, long)
	since(w.none, long)
	for _, s := range w.spawns {
		since(s, time.Second)
	}
	num(int64(len(w.stops)))
	for _, s := range w.stops {
		since(s, long)
	}
	sum := sha256.Sum256(b)
	copy(k[:], sum[:])
	return k
}

// TestTheKeyOfAWorldIsComplete reminds of key where machine or world gets a field. What a
// machine only hands on, its tally and level, is not in it.
func TestTheKeyOfAWorldIsComplete(t *testing.T) {
	for _, c := range []struct {
		v    any
		want int
	}{{machine{}, 32}, {proc{}, 7}, {upgrade{}, 2}, {backoff{}, 1}, {world{}, 18}, {simProc{}, 6}} {
		if got := reflect.TypeOf(c.v).NumField(); got != c.want {
			t.Errorf("%T has %d fields, was %d: is the new one in key?", c.v, got, c.want)
		}
	}
}
