package cache

import "time"

// item is one outcome. While it is kept it is in Cache.items and in one list.
type item[K, V comparable] struct {
	k      K
	v      V
	err    error
	stored time.Duration

	prev, next *item[K, V]
}

// remove takes it out of its list.
func (it *item[K, V]) remove() {
	it.prev.next, it.next.prev = it.next, it.prev
	it.prev, it.next = nil, nil
}

// list is a ring of items around a root that holds none. The links are in the
// items, so that moving one on a hit does not allocate.
type list[K, V comparable] struct{ root item[K, V] }

func (l *list[K, V]) init() { l.root.prev, l.root.next = &l.root, &l.root }

func (l *list[K, V]) pushBack(it *item[K, V]) {
	last := l.root.prev
	it.prev, it.next = last, &l.root
	last.next, l.root.prev = it, it
}

// front is the item that was pushed longest ago, or nil.
func (l *list[K, V]) front() *item[K, V] {
	if l.root.next == &l.root {
		return nil
	}
	return l.root.next
}
