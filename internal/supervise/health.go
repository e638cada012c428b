package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// works ends an outage: what is served was used.
func (h *Holder) works() {
	h.outage.Stop()
	h.down = time.Time{}
}

// askWorker sends a ping, unless one is not answered yet, or a probe is to tell.
func (h *Holder) askWorker() {
	p := h.worker
	if p == nil || p.serving.IsZero() || p.killed != "" || !h.asked.IsZero() || h.upgrading() {
		return
	}
	h.asked = time.Now()
	h.pong.Reset(pingTimeout)
	_ = p.control.send(msgPing, "") // gone: an event will tell
}

// probe tries what p serves.
func (h *Holder) probe(p *process) {
	timeout := probeTimeout
	if h.upgrading() {
		timeout = upgradeTimeout
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		h.events <- event{from: p, probe: true, err: h.cfg.Probe(ctx)}
	}()
}

func (h *Holder) probeEnded(e event) (done bool, err error) {
	if e.from != h.worker {
		return false, nil // another one is or will be probed
	}
	if e.err == nil {
		h.works()
	}
	if h.upgrading() {
		h.upgradeProbed(e.err)
		return false, nil
	}
	if h.probed {
		return false, nil
	}
	switch {
	case e.err != nil && h.takenOver:
		// It has served before us. The mount point may be gone, or the probe have been
		// killed; whether the worker works, pings tell.
		h.cfg.Log.Error("what is served cannot be read at the mount point: going on", "err", e.err)
	case e.err != nil:
		return true, errors.Join(e.err, h.stop())
	}
	h.probed = true
	h.cfg.Serving(h.worker.pid)
	h.tell("READY=1\nMAINPID=" + fmt.Sprint(os.Getpid()))
	h.takeUpgrade()
	return false, nil
}
