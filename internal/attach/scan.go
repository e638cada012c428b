// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"vprocfs/internal/mountinfo"
)

// maxItems is how many dead mounts of one suspect are replaced by one Heal. vprocfs
// serves less than 20 files.
const maxItems = 256

// suspect is a view (mountinfo.View) that may have dead mounts.
type suspect struct {
	mountinfo.View
	owner uint64 // outermost pid namespace; 0 if unknown
	items []item // mounts of our types that may be dead
	// results and err are those of the helpers so far.
	results []Result
	err     error
}

// drop removes the items whose superblock is in devs.
func (s *suspect) drop(devs map[uint64]bool) {
	s.items = slices.DeleteFunc(s.items, func(it item) bool { return devs[it.dev] })
}

// suspects returns all views that processes have, but those in the mount namespaces of
// this process and of the host's init.
func suspects(proc string, owner func(pid int) (uint64, error)) ([]*suspect, error) {
	self, err := mountinfo.Namespace(proc, "self")
	if err != nil {
		return nil, err
	}
	init, err := mountinfo.Namespace(proc, "1")
	if err != nil && !errors.Is(err, os.ErrPermission) { // init may have more privileges than this process
		return nil, err
	}
	views, err := mountinfo.Views(proc)
	if err != nil {
		return nil, err
	}
	var found []*suspect
	for _, v := range views {
		if v.NS == self || v.NS == init {
			continue
		}
		s := &suspect{View: v}
		if o, err := owner(v.PIDs[0]); err == nil {
			s.owner = o
		}
		found = append(found, s)
	}
	return found, nil
}

// look makes items of the mounts of our types in s. One mountinfo may have 64 MiB, so mu
// lets one look at a time read its own.
func (s *suspect) look(proc string, mu *sync.Mutex) {
	mu.Lock()
	defer mu.Unlock()
	s.err = s.readMounts(proc)
}

func (s *suspect) readMounts(proc string) error {
	text, err := s.Read(proc)
	if err != nil || !mentions(text) {
		return err
	}
	mounts, err := mountinfo.Parse(text)
	if err != nil {
		return err
	}
	t := newTable(mounts)
	for _, m := range mounts {
		file, ok := t.candidate(m)
		if !ok {
			continue
		}
		if len(s.items) == maxItems {
			return fmt.Errorf("more than %d files: the rest is left for the next time", maxItems)
		}
		s.items = append(s.items, item{Path: file, Point: m.Point, Mount: m.ID, dev: m.Dev})
	}
	return nil
}
