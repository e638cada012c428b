package supervise

import (
	"os"
	"time"
)

// An offer is a descriptor for the workers that this process has got from elsewhere.
type offer struct {
	name string
	file *os.File // nil: it was offered before
	// withdraw, if not nil, says which descriptors systemd is to keep no longer.
	withdraw func(name string) bool
}

// offerAgain is how long after a worker has not taken an offer it gets it again.
const offerAgain = 500 * time.Millisecond

// Offer keeps f, and hands it to all workers, as if one of them had called Keep. The worker
// at work gets it by Orders.Offer. Offer waits for Run, and is safe for concurrent use.
func (h *Holder) Offer(name string, f *os.File) { h.offers <- offer{name: name, file: f} }

// Withdraw has systemd close the descriptors of those names: no other process will go on with
// them. It waits for Run, and is safe for concurrent use.
func (h *Holder) Withdraw(which func(name string) bool) { h.offers <- offer{withdraw: which} }

// take takes an offer.
func (h *Holder) take(o offer) {
	if o.withdraw != nil {
		for name := range h.files {
			if o.withdraw(name) {
				h.drop(name)
			}
		}
		return
	}
	if o.file != nil {
		h.keep(o.name, o.file)
	}
	f := h.files[o.name]
	if f == nil {
		return // dropped meanwhile
	}
	late := false
	for _, p := range h.procs {
		late = sendFile(p.control, msgKeep, o.name, int(f.Fd())) != nil || late
	}
	if late { // one that is gone does no harm
		time.AfterFunc(offerAgain, func() { h.offers <- offer{name: o.name} })
	}
}

// discard gives up a descriptor for which a worker has no use.
func (h *Holder) discard(name string) {
	f := h.files[name]
	if f == nil || h.cfg.Dropped == nil {
		return
	}
	delete(h.files, name)
	h.drop(name)
	h.cfg.Dropped(name)
	f.Close()
}
