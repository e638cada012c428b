package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
)

// Config is what a Holder needs.
type Config struct {
	Log *slog.Logger
	// Program is the path of the binary that an upgrade puts to work.
	Program string
	// MaxOutage is how long there may be no worker that works.
	MaxOutage time.Duration
	// Abort ends what the callers wait for, when that time is over.
	Abort func()
	// Probe uses what is served, as a user would, from a process of its own. An
	// error, or no answer until the context ends, says that it is not served.
	Probe func(context.Context) error
	// Serving is called once, when the first worker has been probed.
	Serving func(worker int)
	// Stop is called before the worker is told to end.
	Stop func() error
	// Own are descriptors that are kept over an upgrade, but not the workers'.
	Own map[string]int
}

// The pace of a holder.
const (
	// A worker that has worked for so long is a good one: the next one is
	// started at once should it end, and the outage is over when it answers.
	goodAfter = 100 * time.Millisecond
	// From minBackoff on, and twice as long each time, up to maxBackoff, is the
	// wait before a worker is started where the last one was not good.
	minBackoff = 10 * time.Millisecond
	maxBackoff = 2 * time.Second
	// startTimeout is how long a worker may take to begin. It is for busy
	// machines.
	startTimeout = 20 * time.Second
	// pingEvery is how often a worker is asked whether it works, where systemd does
	// not want to know more often, and pingTimeout how long it may take to answer.
	// Each ping wakes some threads of an idle daemon.
	pingEvery   = time.Minute
	pingTimeout = 10 * time.Second
	// probeTimeout is how long the first worker may take to answer. It is for busy
	// machines. upgradeTimeout is that of one that has replaced a worker which
	// did: callers wait meanwhile.
	probeTimeout   = 20 * time.Second
	upgradeTimeout = 10 * time.Second
	// stopTimeout is how long a worker may take to end.
	stopTimeout = 5 * time.Second
)

// Holder is the holder's side. It belongs to one goroutine.
type Holder struct {
	cfg     Config
	files   map[string]*os.File
	signals Signals
	events  chan event
	worker  *process // nil while there is none
	next    *process // the candidate of an upgrade
	upgrade *upgrade // nil while there is none
	waiting *upgrade // one that waits for a worker
	probed  bool     // what is served was probed once
	// inherited says that this process has not made the mount: containers may use it.
	inherited bool
	takenOver bool // its worker was another holder's
	toggled   bool
	over      bool // the worker has said that there is nothing left to do
	overErr   error

	backoff time.Duration
	crashed bool // the last worker ended of itself
	// down is when the outage began, 0 where there is none.
	down    time.Time
	restart *time.Timer
	outage  *time.Timer
	ping    *time.Ticker
	pong    *time.Timer // when it must have come
	asked   time.Time   // when a ping was sent that is not answered; 0 none

	listener *net.UnixListener
	asking   chan *replyTo // nil without a listener
}

// Signals tell the holder what to do.
type Signals struct {
	Stop, Upgrade <-chan os.Signal
	// Toggle is handed on to the worker.
	Toggle <-chan os.Signal
}

// NewHolder makes a holder of files, which are handed to each worker.
func NewHolder(cfg Config, files map[string]*os.File, s Signals) *Holder {
	h := &Holder{cfg: cfg, files: files, signals: s, events: make(chan event), backoff: 0}
	h.restart, h.outage = time.NewTimer(0), time.NewTimer(cfg.MaxOutage)
	h.ping, h.pong = time.NewTicker(pingEvery), time.NewTimer(pingTimeout)
	h.pong.Stop()
	if every := h.watchdog() / 3; every > 0 {
		h.ping.Reset(min(every, pingEvery))
	}
	return h
}

// Run keeps a worker at work until a signal comes (nil), the worker says that its
// work is over (its error), or the outage lasts too long. A first worker that
// cannot begin is an error too, where the mount is new: an ExitError, as it has said
// itself why.
func (h *Holder) Run(adopted *Adopted) error {
	h.down = time.Now()
	defer func() {
		if h.next != nil { // else it would keep the descriptors
			h.kill(h.next, "no use")
		}
	}()
	h.storeAll()
	h.inherited = adopted != nil && adopted.Files != nil
	if adopted.Working() {
		h.adopt(adopted)
	} else {
		// There may be no worker for so long, and then it has to be probed.
		h.tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (h.cfg.MaxOutage + 2*probeTimeout).Microseconds()))
	}
	for {
		select {
		case <-h.restart.C:
			if h.worker == nil {
				h.start()
			}
		case <-h.outage.C:
			if !h.down.IsZero() {
				return h.giveUp()
			}
		case <-h.ping.C:
			if !h.down.IsZero() {
				h.tell("WATCHDOG=1") // how long that may last is our business
			}
			h.askWorker()
		case <-h.pong.C:
			if p := h.worker; p != nil && !h.asked.IsZero() && p.killed == "" {
				h.kill(p, fmt.Sprintf("no answer for %s", pingTimeout))
			}
		case <-h.signals.Toggle:
			h.toggled = !h.toggled
			if h.worker != nil {
				_ = h.worker.control.send(msgToggle, "") // gone: an event will tell
			}
		case <-h.signals.Upgrade:
			h.beginUpgrade(nil)
		case c := <-h.asking:
			h.beginUpgrade(c)
		case s := <-h.signals.Stop:
			h.cfg.Log.Info("stopping", "signal", s.String())
			return h.stop()
		case e := <-h.events:
			if done, err := h.handle(e); done {
				return err
			}
		}
	}
}

// ExitError says that the first worker ended before it began.
type ExitError struct{ Status int }

func (e *ExitError) Error() string { return fmt.Sprintf("the worker ended with status %d", e.Status) }

func (h *Holder) handle(e event) (done bool, err error) {
	switch {
	case e.probe:
		return h.probeEnded(e)
	case e.timeout:
		if (e.from == h.worker || e.from == h.next) && e.from.serving.IsZero() && e.from.killed == "" {
			h.kill(e.from, fmt.Sprintf("not at work after %s", startTimeout))
		}
	case e.settled:
		if e.from == h.worker {
			h.askWorker()
		}
	case e.gone:
		return h.ended(e)
	default:
		h.said(e.from, e.message)
	}
	return false, nil
}

// start starts a worker of the program that this process runs.
func (h *Holder) start() {
	p, err := h.spawn("/proc/self/exe", false)
	if err != nil {
		h.cfg.Log.Error("worker not started", "err", err)
		h.later()
		return
	}
	h.worker = p
	h.begin(p)
}

// begin has p work. A candidate hears what has changed since it was started.
func (h *Holder) begin(p *process) {
	if p.toggled != h.toggled {
		p.toggled = h.toggled
		_ = p.control.send(msgToggle, "") // gone: an event will tell
	}
	rest := ""
	if h.crashed {
		rest = crashed
	}
	_ = p.control.send(msgGo, rest)
}

// later has start called after the back-off.
func (h *Holder) later() {
	h.restart.Reset(h.backoff)
	h.backoff = min(max(2*h.backoff, minBackoff), maxBackoff)
}

// said handles a message.
func (h *Holder) said(p *process, m message) {
	switch m.word {
	case msgReady:
		if p == h.next {
			p.ready = true
			h.replaceWorker()
		}
	case msgServing:
		p.serving = time.Now()
		if p == h.worker {
			time.AfterFunc(goodAfter, func() { h.events <- event{from: p, settled: true} })
			h.asked = time.Time{}
			h.pong.Stop()
			// One that is new is as good as an answer.
			h.tell(fmt.Sprintf("WATCHDOG=1\nSTATUS=serving, worker %d", p.pid))
			if !h.probed || h.upgrading() {
				h.probe(p)
			}
			h.takeUpgrade()
		}
	case msgPong:
		if p == h.worker {
			h.asked = time.Time{}
			h.pong.Stop()
			if time.Since(p.serving) >= goodAfter {
				h.works()
			}
			h.tell("WATCHDOG=1")
		}
	case msgKeep:
		if m.file != nil {
			if old := h.files[m.rest]; old != nil {
				old.Close()
				h.drop(m.rest)
			}
			h.files[m.rest] = m.file
			h.store(m.rest, m.file)
			if h.next != nil {
				_ = h.next.control.sendFile(msgKeep, m.rest, int(m.file.Fd())) // gone: an event will tell
			}
		}
	case msgOver:
		if p == h.worker {
			h.over = true
			if m.rest != "" {
				h.overErr = errors.New(m.rest)
			}
		}
	}
}

// ended handles the end of a worker.
func (h *Holder) ended(e event) (done bool, err error) {
	p := e.from
	_ = p.control.conn.Close()
	if p == h.next {
		h.next = nil
		h.endUpgrade(fmt.Errorf("the new worker ended before it was ready: %s", reason(p, e.how)))
		return false, nil
	}
	if p != h.worker {
		return false, nil
	}
	h.worker = nil
	h.asked = time.Time{} // nobody answers that any more
	h.pong.Stop()
	_ = p.handle.Release()
	// One that has not begun has not got rid of what the one before it died of.
	h.crashed = e.how.crashed || p.killed != "" && p.killed != replaced || h.crashed && p.serving.IsZero()
	switch {
	case h.over:
		return true, h.overErr
	case h.next != nil && h.next.ready:
		h.promote()
		return false, nil
	case !h.probed && !h.inherited && p.serving.IsZero() && e.how.status > 0 && p.killed == "":
		return true, &ExitError{e.how.status}
	}
	if h.upgrading() {
		h.endUpgrade(fmt.Errorf("the new worker ended: %s", reason(p, e.how)))
	}
	if !p.serving.IsZero() && time.Since(p.serving) >= goodAfter {
		h.backoff = 0
	}
	if h.down.IsZero() {
		h.down = time.Now()
		h.outage.Reset(h.cfg.MaxOutage)
		h.tell("WATCHDOG=1") // to find out that it hung has taken some of systemd's time
	}
	h.cfg.Log.Warn("the worker has ended, starting another", "pid", p.pid, "reason", reason(p, e.how), "after", h.backoff)
	h.later()
	return false, nil
}

// stop ends the worker.
func (h *Holder) stop() error {
	h.tell("STOPPING=1")
	err := h.cfg.Stop()
	for _, p := range []*process{h.next, h.worker} {
		if p != nil {
			_ = p.control.send(msgStop, "") // gone already
		}
	}
	timeout := time.After(stopTimeout)
	for h.worker != nil {
		select {
		case e := <-h.events:
			if e.gone && e.from == h.worker {
				h.worker = nil
			}
		case <-timeout:
			h.kill(h.worker, "stopping")
			h.worker = nil
		}
	}
	return err
}

// giveUp ends an outage that has lasted too long.
func (h *Holder) giveUp() error {
	h.tell("STATUS=no worker for too long")
	for name := range h.files {
		h.drop(name)
	}
	h.cfg.Abort()
	if h.worker != nil {
		h.kill(h.worker, "no use")
	}
	return fmt.Errorf("no worker that works for %s: gave up, so that nobody waits for ever", h.cfg.MaxOutage)
}

// adopt takes over a worker that is at work.
func (h *Holder) adopt(a *Adopted) {
	handle, _ := os.FindProcess(a.worker) // on Unix it always succeeds
	p := &process{pid: a.worker, handle: handle, control: a.control, serving: time.Now(), toggled: a.toggled}
	h.toggled = a.toggled
	h.worker, h.takenOver = p, true
	h.down = time.Time{}
	h.outage.Stop()
	h.watch(p, a.wait)
	if a.upgraded {
		// Of an upgrade whose last step was to become this program.
		h.probed = true
		h.cfg.Log.Info("upgraded", "pid", os.Getpid(), "worker", p.pid, "program", h.cfg.Program)
		a.reply.say(nil)
		h.tell("READY=1")
	} else {
		h.probe(p)
	}
}
