// SPDX-License-Identifier: Apache-2.0

package initpid

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLevels is how deep pid namespaces can be nested (MAX_PID_NS_LEVEL,
	// include/linux/pid_namespace.h).
	maxLevels = 32

	// maxAncestry is the number of pid namespaces in one of the two generations
	// of an ancestry. Together they take at most 1.5 MiB.
	maxAncestry = 8192

	// inodeTTL is how long a namespace's inode number is taken for the same
	// namespace on a kernel without NS_GET_ID.
	inodeTTL = time.Second
)

// errTooDeep is returned if a namespace does not lie below our own.
var errTooDeep = errors.New("pid namespace is not below our own")

// ancestry remembers the outermost pid namespace that a pid namespace lies in.
// A walk up from a namespace ends at the first one that is remembered, and all
// namespaces on the way are remembered. So a new namespace costs one step,
// however deep it is nested.
//
// Namespaces are known by their id (Linux 6.18). On an older kernel they are known
// by their inode number, which the kernel uses again. There an answer is good for
// inodeTTL: for at most that long, requests of a namespace that has the number of
// one that is gone may be accounted to the old one's container.
//
// It is bounded: when recent is full it becomes older, and the former older is
// forgotten. It is safe for concurrent use.
type ancestry struct {
	host   Init // our own namespace
	now    func() time.Duration
	parent func(nsfd int) (fd int, ns uint64, err error)

	mu            sync.Mutex
	recent, older map[uint64]ancestor // by id, or by inode number
}

// ancestor is the outermost namespace that a namespace lies in.
type ancestor struct {
	ns    uint64        // inode number
	found time.Duration // when a walk up to our own namespace found it
}

func newAncestry(host Init) *ancestry {
	start := time.Now()
	return &ancestry{
		host:   host,
		parent: parent,
		now:    func() time.Duration { return time.Since(start) },
		recent: map[uint64]ancestor{},
	}
}

// hasIDs reports whether the kernel has namespace ids.
func (a *ancestry) hasIDs() bool { return a.host.ID != 0 }

// key returns the key of the namespace nsfd with inode number ns.
func (a *ancestry) key(nsfd int, ns uint64) (uint64, error) {
	if !a.hasIDs() {
		return ns, nil
	}
	if id := namespaceID(nsfd); id != 0 {
		return id, nil
	}
	return 0, fmt.Errorf("ioctl NS_GET_ID on pid namespace %d: no id", ns)
}

// get returns what is remembered for key.
func (a *ancestry) get(key uint64) (ancestor, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.recent[key]
	if !ok {
		if o, ok = a.older[key]; ok {
			a.put(key, o) // so that a namespace in use is not forgotten
		}
	}
	if ok && !a.hasIDs() && a.now()-o.found >= inodeTTL {
		return ancestor{}, false
	}
	return o, ok
}

// put remembers o for key. a.mu is held.
func (a *ancestry) put(key uint64, o ancestor) {
	if _, ok := a.recent[key]; !ok && len(a.recent) >= maxAncestry {
		a.recent, a.older = make(map[uint64]ancestor, maxAncestry), a.recent
	}
	a.recent[key] = o
}

// outermost returns the inode number of the outermost namespace that the namespace
// nsfd, with inode number ns, lies in. It is ns itself for a child of our own. It
// takes three to five system calls for each namespace on the way up that is not
// remembered, and one or none if nsfd itself is. It does not block.
func (a *ancestry) outermost(nsfd int, ns uint64) (uint64, error) { return a.walk(nsfd, ns, a.get) }

// certain is outermost without the doubt of a number that is used again: on a
// kernel without NS_GET_ID it goes up to our own namespace.
func (a *ancestry) certain(nsfd int, ns uint64) (uint64, error) {
	if a.hasIDs() {
		return a.walk(nsfd, ns, a.get)
	}
	return a.walk(nsfd, ns, func(uint64) (ancestor, bool) { return ancestor{}, false })
}

// walk goes up from nsfd until known knows a namespace, or to our own.
func (a *ancestry) walk(nsfd int, ns uint64, known func(key uint64) (ancestor, bool)) (uint64, error) {
	if ns == a.host.NS {
		return ns, nil
	}
	var passed [maxLevels]uint64
	fd, n := nsfd, 0
	defer func() {
		if fd != nsfd {
			unix.Close(fd)
		}
	}()
	for ; n < len(passed); n++ {
		key, err := a.key(fd, ns)
		if err != nil {
			return 0, err
		}
		if o, ok := known(key); ok {
			a.remember(passed[:n], o)
			return o.ns, nil
		}
		passed[n] = key
		up, above, err := a.parent(fd)
		if err != nil {
			return 0, fmt.Errorf("parent of pid namespace %d: %w", ns, err)
		}
		if fd != nsfd {
			unix.Close(fd)
		}
		fd = up
		if above == a.host.NS {
			a.remember(passed[:n+1], ancestor{ns, a.now()})
			return ns, nil
		}
		ns = above
	}
	return 0, errTooDeep
}

// remember puts o for each of the keys. Its time stays that of the walk that
// reached our own namespace: what is derived from it is not younger.
func (a *ancestry) remember(keys []uint64, o ancestor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, key := range keys {
		a.put(key, o)
	}
}
