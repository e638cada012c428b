// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"sync/atomic"
	"time"
)

// fileCount counts the contents of one file that were made for a container, and how long
// that took. It is safe for concurrent use.
type fileCount struct{ reads, sum, slowest atomic.Uint64 } // times in nanoseconds

func (f *fileCount) add(took time.Duration) {
	ns := uint64(max(took, 0))
	f.reads.Add(1)
	f.sum.Add(ns)
	for old := f.slowest.Load(); ns > old && !f.slowest.CompareAndSwap(old, ns); {
		old = f.slowest.Load()
	}
}

// countRead counts a content that is about to be made.
func (c *Container) countRead() {
	c.took = 0
	c.reads.Add(c.now)
	c.space.owner.reads.Add(c.now)
}

// countFile counts a content of f that was made. The container has no state if it ended
// meanwhile.
func (c *Container) countFile(f *File) {
	if c.state != nil {
		c.files[f.index].add(c.took)
	}
}

// GroupReads is what the container in a control group has read.
type GroupReads struct {
	Group string      `json:"group"`
	Files []FileReads `json:"files"`
}

// FileReads is how often a container has read a file, and how long it took to make the
// content: to read its sources, and to open those that were not open.
type FileReads struct {
	File string `json:"file"`
	N    uint64 `json:"n"`
	// Seconds is the time of all together, Slowest that of the one that took longest.
	Seconds float64 `json:"seconds"`
	Slowest float64 `json:"slowest"`
}

// FilesRead returns which files the containers in the pid namespace ns have read. It returns
// an error if there are none. It is safe for concurrent use.
func (r *Registry) FilesRead(ns uint64) ([]GroupReads, error) {
	r.mu.RLock()
	sp := r.spaces[ns]
	r.mu.RUnlock()
	if sp == nil {
		return nil, fmt.Errorf("no container is known in pid namespace %d", ns)
	}
	all := []GroupReads{}
	for _, s := range sp.hold() {
		s.mu.RLock()
		g := GroupReads{Group: s.name(), Files: []FileReads{}}
		s.mu.RUnlock()
		for i := range s.files {
			f := &s.files[i]
			if n := f.reads.Load(); n > 0 {
				g.Files = append(g.Files, FileReads{
					r.files[i].String(), n, float64(f.sum.Load()) / 1e9, float64(f.slowest.Load()) / 1e9,
				})
			}
		}
		s.users.Add(-1)
		all = append(all, g)
	}
	return all, nil
}
