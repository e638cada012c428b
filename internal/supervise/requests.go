// SPDX-License-Identifier: Apache-2.0

package supervise

import "vprocfs/internal/control"

// Listen makes the holder take requests at the path of a control socket, from root and from
// the members of the group, control.NoGroup for none.
func (h *Holder) Listen(path string, group int) error {
	l, err := control.Listen(path, group)
	if err != nil {
		return err
	}
	h.listener, h.requests = l, l.Requests
	go l.Serve()
	return nil
}

// Unlisten removes the socket. Requests that were sent before are still taken.
func (h *Holder) Unlisten() { h.listener.Close() }

// refuse answers those whose requests have just come.
func (h *Holder) refuse(err error) {
	for {
		select {
		case c := <-h.requests:
			c.Say(err)
		default:
			return
		}
	}
}

// asked handles a request. What only the worker can answer it gets with the client's
// connection, so that this process never waits for a client or a worker.
func (h *Holder) asked(c *control.Client) {
	switch c.Verb {
	case control.Ping:
		c.Say(nil)
	case control.Upgrade:
		h.step(upgradeAsked{h.addClient(c)})
	case control.LogLevel:
		err := h.cfg.SetLevel(c.Arg)
		if err == nil {
			h.step(levelAsked{c.Arg})
		}
		c.Say(err)
	case control.Status:
		c.Answer(h.cfg.Status(h.machine.status()), nil)
	default:
		worker := h.procs[h.machine.worker.id]
		if worker == nil || h.machine.worker.serving.IsZero() {
			c.Say(control.ErrNoWorker)
			return
		}
		c.HandOn(func(line string, fd int) error { return sendFile(worker.control, msgAsk, line, fd) })
	}
}
