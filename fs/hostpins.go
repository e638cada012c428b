// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// The host's files below sys/devices/system are many: some 100 for each CPU. So one is
// pinned when it is opened first, before that OPEN is answered, and it stays pinned as long
// as it is open in a container. A lease needs a descriptor: whoever opens the file later
// finds it pinned again, before it has one.

const (
	// maxHostPins bounds the host's files that are pinned, to 8 MiB of the kernel's
	// memory. maxOwnerPins bounds those that one owner was the first to open: it takes 8
	// owners to leave the others without.
	maxHostPins  = 4096
	maxOwnerPins = maxHostPins / 8
)

// openHostPinned makes the reply to the OPEN of the host's file at path below the root, with
// a pin of the file. It returns ENFILE if too many are pinned.
func (s *Server) openHostPinned(t *Turn, path string) (int, error) {
	if s.pins == nil || !s.pins.IsOpen() {
		return s.openReply(t)
	}
	if !s.pins.use(t.id) {
		if err := t.Block(0); err != nil {
			return 0, err
		}
		err := s.pins.addHost(t.id, path, t.owner, s.handles.hostNodes)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, ErrPinsClosed):
			// A lease from before there were pins, or an unmount: nothing that the
			// caller should not have the file for.
			return s.openReply(t)
		case err != nil:
			return 0, err
		}
	}
	defer s.pins.unuse(t.id)
	return s.openReply(t)
}

// use keeps the pin of the file id until unuse. It returns false if there is none.
func (p *Pins) use(id NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	pin := p.files[id]
	if pin == nil {
		return false
	}
	pin.users++
	return true
}

func (p *Pins) unuse(id NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pin := p.files[id]; pin != nil { // nil: closed meanwhile
		pin.users--
	}
}

// addHost pins the host's file id for the owner who opens it, and keeps the pin until unuse.
// open returns the host's files that are open. It must not be called by the reader.
func (p *Pins) addHost(id NodeID, path string, owner uint64, open func() map[NodeID]uint64) error {
	p.opening.Lock()
	defer p.opening.Unlock()
	if p.use(id) {
		return nil
	}
	if err := p.makeRoom(owner, open); err != nil {
		return err
	}
	fd, err := p.open(path)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files[id] = &pin{fd: fd, owner: owner, users: 1}
	if p.bundle == nil {
		return nil // Pin makes it
	}
	return p.send([]int{fd})
}

// makeRoom returns nil if the owner may have another pin. It drops the pins of files that
// are not open if that needs to be.
func (p *Pins) makeRoom(owner uint64, open func() map[NodeID]uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.root < 0:
		return ErrPinsClosed
	case p.mayAdd(owner):
		return nil
	}
	// Under the lock: a file that is about to be opened has its pin in use.
	opened := open()
	maps.DeleteFunc(p.files, func(id NodeID, pin *pin) bool {
		_, isOpen := opened[id]
		if id&hostBit == 0 || isOpen || pin.users > 0 {
			return false
		}
		unix.Close(pin.fd)
		return true
	})
	if p.bundle != nil {
		if err := p.pack(); err != nil {
			return err
		}
	}
	if !p.mayAdd(owner) {
		return errTooManyFiles
	}
	return nil
}

func (p *Pins) mayAdd(owner uint64) bool {
	all, own := 0, 0
	for id, pin := range p.files {
		if id&hostBit == 0 {
			continue
		}
		all++
		if pin.owner == owner {
			own++
		}
	}
	return all < maxHostPins && own < maxOwnerPins
}

// hostPaths adds to paths those of the host's files that are open: a former process has
// pinned them.
func (s *Server) hostPaths(paths map[NodeID]string) {
	if len(s.hosts) == 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.handles.hostNodes())) {
		if h, path, err := s.findHost(id); err == nil { // else the host has it no more
			paths[id] = s.hostPath(h, path)
		}
	}
}

// hostPath returns the path below the root of the file of h at path.
func (s *Server) hostPath(h *HostTree, path string) string {
	return s.tree.path(s.tree.node(h.dir)) + "/" + path
}

// hostNodes returns the host's files that are open, with the owner of one who has each
// open.
func (t *handles) hostNodes() map[NodeID]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	nodes := make(map[NodeID]uint64)
	for i := range t.table[:t.grown()] {
		if h := &t.table[i]; h.isOpen() && h.node&hostBit != 0 {
			nodes[h.node] = h.owner
		}
	}
	return nodes
}
