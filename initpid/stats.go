// SPDX-License-Identifier: Apache-2.0

package initpid

import "sync/atomic"

const numMethods = Host + 1

// counts counts what a Resolver does.
type counts struct {
	found, failed [numMethods]atomic.Uint64
	renewed       atomic.Uint64
}

// Stats is what a Resolver has done.
type Stats struct {
	// Found is how often each Method has found an init. Cache and Host count every look-up.
	Found map[string]uint64 `json:"found"`
	// Failed is how often there was an error instead. That of Cache is one that was kept.
	Failed map[string]uint64 `json:"failed"`
	// Renewed is how often an answer was verified again after its time was over.
	Renewed uint64 `json:"renewed"`
	// Method is the way that is tried first.
	Method string `json:"method"`
	// Kept is how many pid namespaces are known.
	Kept int `json:"kept"`
}

// Stats returns what r has done. It is safe for concurrent use.
func (r *Resolver) Stats() Stats {
	s := Stats{
		Found: map[string]uint64{}, Failed: map[string]uint64{},
		Renewed: r.counts.renewed.Load(), Method: r.by.String(), Kept: r.cache.Len(),
	}
	for m := Ioctl; m < numMethods; m++ {
		if n := r.counts.found[m].Load(); n > 0 {
			s.Found[m.String()] = n
		}
		if n := r.counts.failed[m].Load(); n > 0 {
			s.Failed[m.String()] = n
		}
	}
	return s
}
