// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/count"
	"vprocfs/procvirt/held"
	"vprocfs/procvirt/host"
)

// What is remembered is accounted to the outermost container: when that has too much,
// only its own has to go.

// maxOwned is how many pid namespaces of one owner are remembered, maxSpaces how many of
// all owners.
const (
	maxOwned  = 512
	maxSpaces = 16384
)

// maxOwnedFiles is how many files may be open for one owner. A container needs some 20.
const maxOwnedFiles = 8192

// maxOwnedStates is how many containers of one owner are remembered before those of its
// pid namespaces that add one have to do with few.
const maxOwnedStates = 2048

// owner is an outermost container. Registry.mu guards spaces and sweepAt.
type owner struct {
	id     uint64
	opener held.Opener  // counts the files of its containers
	states atomic.Int32 // how many containers are remembered
	spaces map[*space]bool
	reads  count.Rate // contents that were made for its containers
	// allowance is what it may read, and delayed how many reads had to wait for it.
	allowance allowance
	delayed   atomic.Uint64
	// sweepAt is at how many spaces those that have ended are looked for: the
	// resolver does not tell of the end of those that it has forgotten itself.
	sweepAt int
}

// firstSweep is the least owner.sweepAt.
const firstSweep = 64

// insert puts fresh in its place, unless another goroutine came first. It returns
// the space that is there now, and one that had to go, if any.
func (r *Registry) insert(fresh *space, ownerID uint64) (now, old *space) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old = r.spaces[fresh.ns]
	if old != nil && old.init == fresh.init && old.id == fresh.id {
		return old, nil
	}
	if old != nil {
		r.remove(old)
	}
	o := r.owners[ownerID]
	if o == nil {
		o = &owner{id: ownerID, spaces: map[*space]bool{}, sweepAt: firstSweep}
		o.opener.CountIn(&r.opener)
		r.owners[ownerID] = o
	}
	fresh.owner = o
	fresh.used.Store(r.cfg.Now())
	o.spaces[fresh] = true
	r.spaces[fresh.ns] = fresh
	return fresh, old
}

// remove takes sp out of the maps. The caller holds r.mu.
func (r *Registry) remove(sp *space) {
	if r.spaces[sp.ns] == sp {
		delete(r.spaces, sp.ns)
	}
	delete(sp.owner.spaces, sp)
	if len(sp.owner.spaces) == 0 && r.owners[sp.owner.id] == sp.owner {
		delete(r.owners, sp.owner.id)
	}
}

// owned returns the spaces of o, those that were not used for longest first.
func (r *Registry) owned(o *owner) []*space {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(o.spaces), func(a, b *space) int {
		return cmp.Compare(a.used.Load(), b.used.Load())
	})
}

// evict forgets spaces of o if it has too many, or if there are too many in all: then
// o is the one with the most.
func (r *Registry) evict(o *owner) {
	o, sweep, excess := r.crowd(o)
	if sweep {
		r.sweep(o)
		o, _, excess = r.crowd(o)
	}
	if excess <= 0 {
		return
	}
	// Some more, so that this is not done for each of the next.
	excess += maxOwned / 16
	for _, sp := range r.owned(o) {
		if excess == 0 {
			return
		}
		if !sp.host && r.evictSpace(sp) {
			excess--
		}
	}
}

// crowd returns the owner that has too many spaces, whether to look for ended ones, and
// how many are too many.
func (r *Registry) crowd(o *owner) (_ *owner, sweep bool, excess int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if excess = len(o.spaces) - maxOwned; excess <= 0 && len(r.spaces) > maxSpaces {
		excess = len(r.spaces) - maxSpaces
		for _, other := range r.owners {
			if len(other.spaces) > len(o.spaces) {
				o = other
			}
		}
	}
	if sweep = len(o.spaces) >= o.sweepAt; sweep {
		o.sweepAt = 2 * len(o.spaces)
	}
	return o, sweep, excess
}

// evictSpace forgets a space that no request holds. It reports whether it did.
func (r *Registry) evictSpace(sp *space) bool {
	if !sp.mu.TryLock() {
		return false
	}
	defer sp.mu.Unlock()
	if sp.isHeld() {
		return false
	}
	r.mu.Lock()
	r.remove(sp)
	r.mu.Unlock()
	sp.endLocked()
	r.counts.evicted.Add(1)
	return true
}

// sweep forgets the spaces of o whose init is gone.
func (r *Registry) sweep(o *owner) {
	for _, sp := range r.owned(o) {
		started, err := host.StartTime(r.proc, sp.init)
		if err == nil && started == sp.started || isOurs(err) {
			continue
		}
		r.mu.Lock()
		r.remove(sp)
		r.mu.Unlock()
		sp.end()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	o.sweepAt = max(firstSweep, 2*len(o.spaces))
}

// drop forgets a pid namespace whose init is gone, and with an outermost one all below
// it: they end with it.
func (r *Registry) drop(ns uint64) {
	r.callers.Drop(ns)
	for _, sp := range r.takeOut(ns) {
		sp.end()
	}
	r.counts.ended.Add(1)
	if r.cfg.Ended != nil {
		r.cfg.Ended()
	}
}

// takeOut takes the spaces that end with ns out of the maps.
func (r *Registry) takeOut(ns uint64) (gone []*space) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sp := r.spaces[ns]; sp != nil {
		gone = append(gone, sp)
		if o := sp.owner; o.id == ns && !sp.host {
			delete(o.spaces, sp)
			gone = slices.AppendSeq(gone, maps.Keys(o.spaces))
		}
	}
	for _, sp := range gone {
		r.remove(sp)
	}
	return gone
}

// release closes the files of a pid namespace that nobody has asked about for a
// while. What was shown is kept, since its containers go on.
func (r *Registry) release(ns uint64) {
	r.callers.Drop(ns)
	r.mu.RLock()
	sp := r.spaces[ns]
	r.mu.RUnlock()
	if sp != nil {
		sp.release()
	}
}

// trimOwner closes files if too many are open: those of o if it has more than its
// share, which is half of what all may have at most, else of any containers.
func (r *Registry) trimOwner(o *owner) {
	if limit := min(r.cfg.MaxFiles/2, maxOwnedFiles); o.opener.Count() > limit {
		r.closeSome(r.owned(o), &o.opener, limit*15/16)
	}
	if r.opener.Count() > r.cfg.MaxFiles {
		r.trim(o, r.cfg.MaxFiles*15/16)
	}
}

// trim closes files of containers until no more than most are open. It reports whether it
// closed any.
func (r *Registry) trim(keep *owner, most int) bool {
	before := r.opener.Count()
	r.closeSome(r.victims(keep), &r.opener, most)
	return r.opener.Count() < before
}

// busyFor is how long after its last read a container is expected to read again.
const busyFor = int64(15 * time.Second)

// victims returns all spaces in the order in which their files are closed. Those that have
// not read for longest come first, if that is longer than busyFor: where all read in turn,
// it says who reads next. Among the others those whose files were opened last come first,
// so that what there is room for stays open. Those of keep come last.
func (r *Registry) victims(keep *owner) []*space {
	type candidate struct {
		sp   *space
		kept bool
		used int64 // math.MaxInt64: within busyFor
		open int64
	}
	spaces := r.all()
	all := make([]candidate, 0, len(spaces))
	idle := r.cfg.Now() - busyFor
	for _, sp := range spaces {
		c := candidate{sp, sp.owner == keep, sp.used.Load(), sp.opened.Load()}
		if c.used > idle {
			c.used = math.MaxInt64
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.kept != b.kept {
			if b.kept {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(b.open, a.open))
	})
	for i := range all {
		spaces[i] = all[i].sp
	}
	return spaces
}

// all returns all spaces.
func (r *Registry) all() []*space {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Values(r.spaces))
}

// closeSome closes files of spaces until no more than most of opener are open: those of
// containers first, and then those of inits, without which decisions are made anew.
func (r *Registry) closeSome(spaces []*space, opener *held.Opener, most int) {
	for _, sp := range spaces {
		sp.tryClose(func() bool { return opener.Count() <= most })
	}
	for _, sp := range spaces {
		if opener.Count() <= most {
			return
		}
		sp.release()
	}
}

// isOurs reports whether err says that this process is out of a resource: that is no
// reason to show the host's numbers.
func isOurs(err error) bool {
	return noDescriptors(err) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EAGAIN)
}
