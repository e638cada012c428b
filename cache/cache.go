// SPDX-License-Identifier: Apache-2.0

// Package cache is a bounded cache of outcomes. The outcome of a fill, a value or
// a failure, is kept for a while. At most one fill of a key runs at a time.
//
// Values have owners. An owner that fills the cache evicts its own values, not
// those of others.
//
// The package starts no goroutine and no timer, so an idle daemon has no
// wake-ups. The next call that meets an expired outcome notices the expiry.
package cache

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

var (
	// ErrClosed is returned by Do after Close, also by a Do that was in
	// progress when Close was called.
	ErrClosed = errors.New("cache is closed")

	// ErrAborted is returned by a Do that waited for another goroutine's fill if
	// that fill panicked or called runtime.Goexit. The panic goes on in the
	// goroutine that ran the fill.
	ErrAborted = errors.New("cache fill did not return")
)

// Config is the configuration of a Cache.
//
// V is comparable because Do compares the value that a fill returns with the
// stale value it was given.
type Config[K, V comparable] struct {
	TTL      time.Duration // how long a value is fresh; 0 or less: never
	ErrorTTL time.Duration // how long a failure is fresh; 0 or less: never
	Max      int           // most outcomes kept, failures included; at least 1

	// Share is the most values kept for one owner, and the most failures kept
	// in all. 0 means Max.
	Share int

	// Owner returns the owner of a value. Nil means that all values have the
	// same owner.
	Owner func(v V) uint64

	// Transient reports whether a failure is not worth keeping: the next Do runs a
	// fill again. Nil means that all failures are kept.
	Transient func(err error) bool

	// Now is a clock that never goes back. Nil means the machine's monotonic
	// clock.
	Now func() time.Duration

	// Evicted, if not nil, is called exactly once for each outcome that leaves
	// the cache, with the value and the error that its fill returned. It may
	// call the cache: no lock is held. Calls for several outcomes may overlap.
	Evicted func(k K, v V, err error)
}

// Cache is a bounded cache of outcomes; New makes one. All methods are safe for
// concurrent use.
//
// A value that Get or Do returned may be evicted before its caller looks at it.
// So only a fill may use what Evicted closes, in the stale value that it is given.
type Cache[K, V comparable] struct {
	conf Config[K, V]

	mu       sync.Mutex // guards all below
	closed   bool
	items    map[K]*item[K, V]
	fills    map[K]*flight[V]
	failures list.List // of *item, oldest first: the order they expire in
	owners   map[uint64]*owner
	recent   list.List // of *owner, least recently used first
}

// item is an outcome in Cache.items. It is also in one list: of its owner's
// values, or of failures.
type item[K, V comparable] struct {
	k      K
	v      V
	err    error
	stored time.Duration
	owner  *owner // nil for a failure
	place  *list.Element
}

// owner has the values of one owner. One without values is in no map or list.
type owner struct {
	id     uint64
	values list.List // of *item, least recently used first
	place  *list.Element
}

// flight is a fill in progress. v and err are written before done is closed.
type flight[V any] struct {
	done chan struct{}
	v    V
	err  error
}

// New makes an empty cache.
func New[K, V comparable](conf Config[K, V]) *Cache[K, V] {
	if conf.Now == nil {
		start := time.Now()
		conf.Now = func() time.Duration { return time.Since(start) }
	}
	if conf.Owner == nil {
		conf.Owner = func(V) uint64 { return 0 }
	}
	conf.Max = max(conf.Max, 1)
	if conf.Share < 1 || conf.Share > conf.Max {
		conf.Share = conf.Max
	}
	return &Cache[K, V]{conf: conf, items: map[K]*item[K, V]{}, fills: map[K]*flight[V]{}, owners: map[uint64]*owner{}}
}

// Get returns the fresh outcome of k: the value, or the failure as err. If there
// is none, ok is false and err is nil. Get does not wait for a fill and does not
// allocate.
func (c *Cache[K, V]) Get(k K) (v V, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.fresh(k)
	if it == nil {
		return v, false, nil
	}
	return it.v, true, it.err
}

// Do returns the fresh outcome of k. If there is none, Do runs fill, and keeps and
// returns its outcome. If another goroutine is filling k, Do waits for it and
// returns its outcome.
//
// fill is given the value of k that is no longer fresh, if there is one. The cache
// does not evict that value while fill runs. If fill returns the same value, it is
// renewed and Evicted is not called. If not, it leaves the cache.
//
// A fill that fails may return a value too. The value is kept with the failure and
// given to Evicted with it.
//
// fill must not call Do for the same key.
func (c *Cache[K, V]) Do(k K, fill func(stale V, ok bool) (V, error)) (V, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		var zero V
		return zero, ErrClosed
	}
	if it := c.fresh(k); it != nil {
		v, err := it.v, it.err
		c.mu.Unlock()
		return v, err
	}
	if f := c.fills[k]; f != nil {
		c.mu.Unlock()
		<-f.done
		return f.v, f.err
	}
	f := &flight[V]{done: make(chan struct{}), err: ErrAborted}
	c.fills[k] = f
	out := c.sweep(nil)
	stale := c.items[k]
	if stale != nil {
		c.unlink(stale)
	}
	c.mu.Unlock()

	c.run(k, f, stale, out, fill)
	return f.v, f.err
}

// run calls fill and stores its outcome, also if fill panics.
func (c *Cache[K, V]) run(k K, f *flight[V], stale *item[K, V], out []*item[K, V], fill func(V, bool) (V, error)) {
	it := &item[K, V]{k: k}
	returned := false
	defer func() {
		out := c.finish(f, it, stale, returned)
		close(f.done) // before Evicted, which may take long
		c.tell(out)
	}()
	c.tell(out)
	var old V
	if stale != nil {
		old = stale.v
	}
	it.v, it.err = fill(old, stale != nil)
	returned = true
}

// finish ends flight f with the outcome it, and returns the outcomes to evict.
func (c *Cache[K, V]) finish(f *flight[V], it, stale *item[K, V], returned bool) (out []*item[K, V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fills, it.k)
	if stale != nil && !(returned && it.v == stale.v) {
		out = append(out, stale)
	}
	if !returned {
		return out
	}
	if c.closed {
		f.err = ErrClosed
		return append(out, it)
	}
	f.v, f.err = it.v, it.err
	if it.err != nil && c.conf.Transient != nil && c.conf.Transient(it.err) {
		return append(out, it)
	}
	return c.store(it, out)
}

// store adds it and makes room for it. c.mu is held.
func (c *Cache[K, V]) store(it *item[K, V], out []*item[K, V]) []*item[K, V] {
	it.stored = c.conf.Now()
	c.items[it.k] = it
	if it.err != nil {
		it.place = c.failures.PushBack(it)
	} else {
		it.owner = c.ownerOf(it.v)
		it.place = it.owner.values.PushBack(it)
		c.recent.MoveToBack(it.owner.place)
	}
	if victim := c.victim(it); victim != nil {
		c.unlink(victim)
		out = append(out, victim)
	}
	return out
}

// ownerOf returns the owner of v, a new one if it has no values yet.
func (c *Cache[K, V]) ownerOf(v V) *owner {
	id := c.conf.Owner(v)
	o := c.owners[id]
	if o == nil {
		o = &owner{id: id}
		o.place = c.recent.PushBack(o)
		c.owners[id] = o
	}
	return o
}

// victim returns the item that makes room for it, which was just stored, or nil.
// A failure goes before a value, and a value of the same owner before another's.
func (c *Cache[K, V]) victim(it *item[K, V]) *item[K, V] {
	failure, own := c.front(&c.failures), (*item[K, V])(nil)
	if it.owner != nil {
		own = c.front(&it.owner.values)
	}
	switch {
	case it.owner == nil && c.failures.Len() > c.conf.Share:
		return failure
	case it.owner != nil && it.owner.values.Len() > c.conf.Share:
		return own
	case len(c.items) <= c.conf.Max:
		return nil
	case failure != nil && failure != it:
		return failure
	case own != nil && own != it:
		return own
	}
	// it is the only outcome of its kind, so another owner comes first here.
	return c.front(&c.recent.Front().Value.(*owner).values)
}

// front returns the first item of l, or nil.
func (c *Cache[K, V]) front(l *list.List) *item[K, V] {
	if e := l.Front(); e != nil {
		return e.Value.(*item[K, V])
	}
	return nil
}

// Delete removes v if it is kept for k, fresh or not, and reports whether it did.
// It does not find a value that a fill of k was given and has not returned yet.
func (c *Cache[K, V]) Delete(k K, v V) bool {
	c.mu.Lock()
	it := c.items[k]
	if it == nil || it.v != v {
		c.mu.Unlock()
		return false
	}
	c.unlink(it)
	c.mu.Unlock()
	c.tell([]*item[K, V]{it})
	return true
}

// Len returns the number of outcomes kept, fresh or not, failures included.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
}

// Close removes all outcomes. Fills in progress go on; their outcomes are evicted
// at once.
func (c *Cache[K, V]) Close() {
	c.mu.Lock()
	c.closed = true
	var out []*item[K, V]
	for _, it := range c.items {
		c.unlink(it)
		out = append(out, it)
	}
	c.mu.Unlock()
	c.tell(out)
}

// fresh returns the fresh item of k and marks it as used. c.mu is held.
func (c *Cache[K, V]) fresh(k K) *item[K, V] {
	it := c.items[k]
	if it == nil || c.expired(it) {
		return nil
	}
	if it.owner != nil {
		it.owner.values.MoveToBack(it.place)
		c.recent.MoveToBack(it.owner.place)
	}
	return it
}

func (c *Cache[K, V]) expired(it *item[K, V]) bool {
	ttl := c.conf.TTL
	if it.err != nil {
		ttl = c.conf.ErrorTTL
	}
	return c.conf.Now()-it.stored >= ttl
}

// sweep removes all expired failures. Expired values stay: each is the stale value
// of the next fill of its key. c.mu is held.
func (c *Cache[K, V]) sweep(out []*item[K, V]) []*item[K, V] {
	for it := c.front(&c.failures); it != nil && c.expired(it); it = c.front(&c.failures) {
		c.unlink(it)
		out = append(out, it)
	}
	return out
}

// unlink removes it from the map and its list. c.mu is held.
func (c *Cache[K, V]) unlink(it *item[K, V]) {
	delete(c.items, it.k)
	if it.owner == nil {
		c.failures.Remove(it.place)
		return
	}
	it.owner.values.Remove(it.place)
	if it.owner.values.Len() == 0 {
		c.recent.Remove(it.owner.place)
		delete(c.owners, it.owner.id)
	}
}

// tell calls Evicted for each outcome that has left. c.mu is not held.
func (c *Cache[K, V]) tell(out []*item[K, V]) {
	if c.conf.Evicted == nil {
		return
	}
	for _, it := range out {
		c.conf.Evicted(it.k, it.v, it.err)
	}
}
