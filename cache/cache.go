// Package cache is a bounded cache of outcomes: what a fill gave for a key, be
// it a value or a failure, is kept for a while, and one fill per key runs at a
// time, however many goroutines ask.
//
// It starts no goroutine and no timer, so that an idle daemon has no wake-ups:
// an expiry is noticed by the next call that meets it.
package cache

import (
	"errors"
	"sync"
	"time"
)

var (
	// ErrClosed is the answer of Do after Close, and to whoever waited for a
	// fill that Close overtook.
	ErrClosed = errors.New("cache is closed")

	// ErrAborted is the answer to whoever waited for a fill that panicked or
	// ended its goroutine. The goroutine that ran the fill sees the panic.
	ErrAborted = errors.New("cache fill did not return")
)

// Reason says why an outcome left the cache.
type Reason uint8

const (
	Expired  Reason = iota // its time was up, and no fill renewed it
	Replaced               // a later fill of its key gave another value
	Room                   // the cache was full
	Deleted                // Delete was called
	Closed                 // Close was called
)

var reasonNames = [...]string{"expired", "replaced", "room", "deleted", "closed"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Config is what New needs.
//
// V is comparable so that a fill can hand back the very value it was given: see Do.
type Config[K, V comparable] struct {
	TTL      time.Duration // how long a value is fresh; not positive: never
	ErrorTTL time.Duration // how long a failure is fresh; not positive: never
	Max      int           // most outcomes kept, failures included; below 1 counts as 1

	// Now is a clock that never goes back. Nil stands for the machine's
	// monotonic clock.
	Now func() time.Duration

	// Evicted, if not nil, is called exactly once for each outcome that
	// leaves, with the value and the error its fill returned. No lock is held:
	// it may call the cache. It may run at the same time for several outcomes.
	Evicted func(k K, v V, err error, why Reason)
}

// Cache is made by New. All methods are safe for concurrent use.
//
// The value that Get or Do returns may leave the cache, and Evicted may be
// called for it, before the caller looks at it. So whatever Evicted closes may
// be used in one place only: by a fill, on the stale value it is given.
type Cache[K, V comparable] struct {
	conf Config[K, V]

	mu       sync.Mutex // guards all below
	closed   bool
	items    map[K]*item[K, V]
	fills    map[K]*flight[V]
	values   list[K, V] // least recently used first
	failures list[K, V] // oldest first, which is also the order they expire in
}

// flight is a fill in progress. v and err are written before done is closed.
type flight[V any] struct {
	done chan struct{}
	v    V
	err  error
}

// leaver is an outcome on its way out, still to be told to Evicted.
type leaver[K, V comparable] struct {
	it  *item[K, V]
	why Reason
}

// New makes an empty cache.
func New[K, V comparable](conf Config[K, V]) *Cache[K, V] {
	if conf.Now == nil {
		start := time.Now()
		conf.Now = func() time.Duration { return time.Since(start) }
	}
	conf.Max = max(conf.Max, 1)
	c := &Cache[K, V]{conf: conf, items: map[K]*item[K, V]{}, fills: map[K]*flight[V]{}}
	c.values.init()
	c.failures.init()
	return c
}

// Get returns the fresh outcome of k: the value, or the failure as err. ok is
// false, and err nil, if there is none. It runs no fill, waits for none, and does not allocate.
func (c *Cache[K, V]) Get(k K) (v V, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.fresh(k)
	if it == nil {
		return v, false, nil
	}
	return it.v, true, it.err
}

// Do returns the fresh outcome of k. If there is none it runs fill, and keeps
// and returns what fill returns; if another goroutine is filling k already, it
// waits for that one and returns its outcome.
//
// fill gets the value that was kept for k but is no longer fresh, if there is
// one. That value is out of reach of everyone else while fill runs: nobody
// evicts it. If fill returns that same value it is renewed and Evicted is not
// called; else it leaves, as Replaced or, where fill failed, as Expired.
//
// A fill that fails may return a value too. It is kept with the failure, and
// handed to Evicted when the failure leaves.
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

// run calls fill and stores its outcome, whichever way fill ends.
func (c *Cache[K, V]) run(k K, f *flight[V], stale *item[K, V], out []leaver[K, V], fill func(V, bool) (V, error)) {
	it := &item[K, V]{k: k}
	returned := false
	defer func() {
		out := c.finish(f, it, stale, returned)
		close(f.done) // first, so that nobody waits for Evicted
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

// finish ends flight f with outcome it, and says what leaves because of it.
func (c *Cache[K, V]) finish(f *flight[V], it, stale *item[K, V], returned bool) (out []leaver[K, V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fills, it.k)

	staleLeaves := Replaced
	switch {
	case c.closed:
		staleLeaves = Closed
	case !returned || it.err != nil:
		staleLeaves = Expired
	}
	if stale != nil && !(returned && it.v == stale.v) {
		out = append(out, leaver[K, V]{stale, staleLeaves})
	}
	if !returned {
		return out
	}
	if c.closed {
		f.err = ErrClosed
		return append(out, leaver[K, V]{it, Closed})
	}
	f.v, f.err = it.v, it.err
	return c.store(it, out)
}

// store puts it into the maps and lists and makes room for it. c.mu is held.
func (c *Cache[K, V]) store(it *item[K, V], out []leaver[K, V]) []leaver[K, V] {
	it.stored = c.conf.Now()
	c.items[it.k] = it
	if it.err != nil {
		c.failures.pushBack(it)
	} else {
		c.values.pushBack(it)
	}
	for len(c.items) > c.conf.Max {
		// A flood of failures must not drive out values that are in use.
		victim := c.failures.front()
		if victim == nil || victim == it {
			victim = c.values.front()
		}
		c.unlink(victim)
		out = append(out, leaver[K, V]{victim, Room})
	}
	return out
}

// Delete drops v if it is what is kept for k, fresh or not, and says whether it
// did. It does not reach a value that a fill holds at the moment.
func (c *Cache[K, V]) Delete(k K, v V) bool {
	c.mu.Lock()
	it := c.items[k]
	if it == nil || it.v != v {
		c.mu.Unlock()
		return false
	}
	c.unlink(it)
	c.mu.Unlock()
	c.tell([]leaver[K, V]{{it, Deleted}})
	return true
}

// Len is the number of outcomes kept, fresh or not, failures included.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
}

// Close drops everything. Fills in progress go on; what they return leaves at once.
func (c *Cache[K, V]) Close() {
	c.mu.Lock()
	c.closed = true
	var out []leaver[K, V]
	for _, it := range c.items {
		c.unlink(it)
		out = append(out, leaver[K, V]{it, Closed})
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
	if it.err == nil {
		it.remove()
		c.values.pushBack(it)
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

// sweep takes out all failures whose time is up. Expired values stay: each is
// the stale value of the next fill of its key. c.mu is held.
func (c *Cache[K, V]) sweep(out []leaver[K, V]) []leaver[K, V] {
	for it := c.failures.front(); it != nil && c.expired(it); it = c.failures.front() {
		c.unlink(it)
		out = append(out, leaver[K, V]{it, Expired})
	}
	return out
}

// unlink takes it out of the map and its list. c.mu is held.
func (c *Cache[K, V]) unlink(it *item[K, V]) {
	delete(c.items, it.k)
	it.remove()
}

// tell calls Evicted for each leaver. c.mu is not held.
func (c *Cache[K, V]) tell(out []leaver[K, V]) {
	if c.conf.Evicted == nil {
		return
	}
	for _, l := range out {
		c.conf.Evicted(l.it.k, l.it.v, l.it.err, l.why)
	}
}
