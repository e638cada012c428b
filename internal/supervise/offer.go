// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"os"
	"sync"
	"time"
)

// An offer is a descriptor for the workers that this process has got from elsewhere.
type offer struct {
	name string
	file *os.File // nil: it was offered before
	// withdraw, if not nil, says which descriptors systemd is to keep no longer.
	withdraw func(name string) bool
}

// offers are those that Run has not taken yet.
type offers struct {
	mu   sync.Mutex
	all  []offer
	wake chan struct{} // has an element if there may be some
}

func (o *offers) add(one offer) {
	o.mu.Lock()
	o.all = append(o.all, one)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *offers) take() []offer {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.all
	o.all = nil
	return all
}

// offerAgain is how long after a worker has not taken an offer it gets it again.
const offerAgain = 500 * time.Millisecond

// Offer keeps f, and hands it to all workers, as if one of them had called Keep. The worker
// at work gets it by Orders.Offer. Offer does not wait, and is safe for concurrent use.
func (h *Holder) Offer(name string, f *os.File) { h.offers.add(offer{name: name, file: f}) }

// Withdraw has systemd close the descriptors of those names: no other process will go on with
// them. It does not wait, and is safe for concurrent use.
func (h *Holder) Withdraw(which func(name string) bool) { h.offers.add(offer{withdraw: which}) }

// takeOffers takes all offers.
func (h *Holder) takeOffers() {
	for _, o := range h.offers.take() {
		h.takeOffer(o)
	}
}

func (h *Holder) takeOffer(o offer) {
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
		time.AfterFunc(offerAgain, func() { h.offers.add(offer{name: o.name}) })
	}
}

// offerAll offers a worker of a former holder what that may not have handed to it.
func (h *Holder) offerAll() {
	for name := range h.files {
		if h.cfg.Offered != nil && h.cfg.Offered(name) {
			h.takeOffer(offer{name: name})
		}
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
