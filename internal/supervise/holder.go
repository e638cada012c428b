// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"vprocfs/internal/control"
)

// Config is what a Holder needs.
type Config struct {
	Log *slog.Logger
	// Output is what the log is written to. It gets what workers print to stderr.
	Output io.Writer
	// Program is the path of the binary that an upgrade puts to work.
	Program string
	// MaxOutage is how long there may be no worker that works.
	MaxOutage time.Duration
	// Abort ends what the callers wait for, when that time is over. It must not wait for
	// the worker, which may be stuck.
	Abort func()
	// Probe uses what is served, as a user would, from a process of its own. It returns
	// an error if that fails or takes longer than limit.
	Probe func(limit time.Duration) error
	// Serving is called once, when the first worker has been probed.
	Serving func(worker int)
	// Stop is called before the worker is told to end, on a goroutine of its own.
	Stop func() error
	// Renew makes a new connection after Worker.Aborted, and returns the descriptors for
	// the next worker. After an error it is called again. It may be nil if no worker calls Aborted.
	Renew func() (map[string]*os.File, error)
	// Status returns the answer to control.Status: what the caller adds to s. It must not
	// wait.
	Status func(s Status) any
	// SetLevel sets the level of this process's log.
	SetLevel func(level string) error
	// Own are descriptors that are kept over an upgrade, but not the workers'.
	Own map[string]int
	// Offered reports whether the descriptor of that name is one that Offer was called with.
	// They are still of use when there was no worker for MaxOutage. It may be nil if Offer is
	// not called.
	Offered func(name string) bool
	// Pause is called before this process executes a new program, which forgets what was not
	// offered yet. If that fails, resume is called. It may be nil.
	Pause func() (resume func())
	// Dropped is called when a worker says that it has no use for a descriptor. It may be
	// nil if no worker calls Worker.Drop.
	Dropped func(name string)
}

// Signals tell the holder what to do.
type Signals struct {
	// Stop ends the work; the second signal ends it at once.
	Stop, Upgrade <-chan os.Signal
	// Toggle is handed on to the worker.
	Toggle <-chan os.Signal
}

// Holder is the holder's side: a machine, and what does as the machine says. It belongs
// to one goroutine.
type Holder struct {
	cfg     Config
	files   map[string]*os.File
	signals Signals
	sys     system
	systemd *notifier
	machine machine
	procs   map[procID]*process
	clients map[clientID]*control.Client
	client  clientID // the last one

	events chan event // from other goroutines
	offers offers
	queued []event // from actions
	done   bool
	err    error

	listener *control.Listener // nil: it takes no requests
	requests chan *control.Client
}

// NewHolder makes a holder of files, which are handed to each worker.
func NewHolder(cfg Config, files map[string]*os.File, s Signals) *Holder {
	h := &Holder{
		cfg: cfg, files: files, signals: s, sys: realSystem(), events: make(chan event), offers: offers{wake: make(chan struct{}, 1)},
		systemd: newNotifier(cfg.Log),
		procs:   make(map[procID]*process), clients: make(map[clientID]*control.Client),
	}
	h.openStderr()
	h.machine = machine{program: cfg.Program, self: os.Getpid(), pace: newPace(cfg.MaxOutage, h.watchdog()), tally: Tally{Began: time.Now().Round(0)}}
	return h
}

// Run keeps a worker at work until a signal comes (nil), the worker says that its
// work is over (its error), or the outage lasts too long. It returns an ExitError if the
// mount is new and the first worker cannot begin, which has said itself why.
func (h *Holder) Run(a *Adopted) error {
	defer h.endRun()
	h.storeAll()
	h.copyStderr() // of what died while there was no holder
	if a.Working() {
		h.step(h.adopt(a))
		h.offerAll()
	} else {
		h.step(started{inherited: a != nil && a.Files != nil})
	}
	timer := time.NewTimer(0)
	for !h.done {
		if t := h.machine.deadline(); t.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(t))
		}
		select {
		case <-timer.C:
			h.step(due{})
		case <-h.signals.Toggle:
			h.step(toggleAsked{})
		case <-h.signals.Upgrade:
			h.step(upgradeAsked{})
		case c := <-h.requests:
			h.asked(c)
		case <-h.offers.wake:
			h.takeOffers()
		case s := <-h.signals.Stop:
			h.step(stopAsked{s.String()})
		case e := <-h.events:
			if m, ok := e.(received); ok {
				h.takeFile(m.message)
			}
			h.step(e)
		}
	}
	return h.err
}

// exitPatience is how long systemd and the reader of the log may take at the end.
const exitPatience = time.Second

// endRun ends what Run has begun.
func (h *Holder) endRun() {
	h.refuse(errors.New("the daemon ends"))
	h.takeOffers() // what is withdrawn
	h.copyStderr()
	h.systemd.flush(exitPatience)
}

// step hands an event to the machine, and those that its actions lead to.
func (h *Holder) step(e event) {
	h.queued = append(h.queued, e)
	for len(h.queued) > 0 {
		e, h.queued = h.queued[0], h.queued[1:]
		if _, ok := e.(ended); ok {
			h.copyStderr()
		}
		for _, a := range h.machine.step(time.Now(), e) {
			h.do(a)
		}
		if e, ok := e.(ended); ok {
			h.forget(e.id)
		}
	}
}

// answer has the machine handle e after the actions at hand.
func (h *Holder) answer(e event) { h.queued = append(h.queued, e) }

// later runs f on another goroutine, and hands its event to the machine.
func (h *Holder) later(f func() event) {
	go func() { h.events <- f() }()
}

// do does one action.
func (h *Holder) do(a action) {
	switch a := a.(type) {
	case spawn:
		pid, err := h.spawn(a)
		h.answer(spawned{a.id, pid, err})
	case order:
		if p := h.procs[a.id]; p != nil {
			_ = send(p.control, a.word, a.rest) // gone: an event will tell
		}
	case handFile:
		if p, f := h.procs[a.id], h.files[a.name]; p != nil && f != nil {
			_ = sendFile(p.control, msgKeep, a.name, int(f.Fd())) // gone: an event will tell
		}
	case kill:
		h.kill(a.id)
	case probe:
		h.later(func() event { return probeEnded{a.id, h.cfg.Probe(a.timeout)} })
	case become:
		h.refuse(errUpgrading)
		h.answer(execFailed{h.become(a)})
	case notify:
		h.systemd.tell(a.state)
	case serving:
		h.cfg.Serving(a.pid)
	case reply:
		h.clients[a.client].Say(a.err)
		delete(h.clients, a.client)
	case logged:
		h.cfg.Log.Log(context.Background(), a.level, a.msg, a.args...)
	case unmount:
		h.later(func() event { return unmounted{h.cfg.Stop()} })
	case renew:
		h.answer(renewEnded{h.renew()})
	case abandon:
		for name := range h.files {
			if h.cfg.Offered == nil || !h.cfg.Offered(name) {
				h.drop(name)
			}
		}
		h.cfg.Abort()
	case exitWith:
		h.done, h.err = true, a.err
	}
}

// addClient numbers a client that waits for a reply.
func (h *Holder) addClient(c *control.Client) clientID {
	h.client++
	h.clients[h.client] = c
	return h.client
}

// adopt takes over a worker that is at work.
func (h *Holder) adopt(a *Adopted) event {
	e := adopted{pid: a.worker, toggled: a.toggled, level: a.level, tally: a.tally, upgraded: a.upgraded}
	if e.tally.Began.IsZero() {
		e.tally.Began = h.machine.tally.Began
	}
	if a.level != "" {
		_ = h.cfg.SetLevel(a.level) // a former program has checked it
	}
	if a.reply != nil {
		e.client = h.addClient(a.reply)
	}
	handle, _ := os.FindProcess(a.worker) // on Unix it always succeeds
	// The machine's first process.
	h.watch(1, &process{handle, a.control}, a.wait)
	return e
}

// takeFile takes over the descriptor that a worker has sent.
func (h *Holder) takeFile(m message) {
	switch {
	case m.word == msgPong:
		h.copyStderr()
	case m.word == msgDrop:
		h.discard(m.rest)
	case m.file == nil:
	case m.word == msgKeep:
		h.keep(m.rest, m.file)
	default:
		m.file.Close()
	}
}

// keep takes over a descriptor that a worker has sent.
func (h *Holder) keep(name string, f *os.File) {
	if old := h.files[name]; old != nil {
		old.Close()
		h.drop(name)
	}
	h.files[name] = f
	h.store(name, f)
}

// renew replaces the descriptors by those of a new connection.
func (h *Holder) renew() error {
	files, err := h.cfg.Renew()
	if err != nil {
		return err
	}
	if f := h.files[stderrName]; f != nil {
		files[stderrName] = f
	}
	for name, f := range h.files {
		if files[name] != f {
			h.drop(name)
			f.Close()
		}
	}
	h.files = files
	h.storeAll()
	return nil
}
