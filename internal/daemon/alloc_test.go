// SPDX-License-Identifier: Apache-2.0

//go:build !race

// The race detector makes sync.Pool forget at random, so that nothing can be
// said about allocations under it.

package daemon

import (
	"os"
	"testing"

	"vprocfs/fs"
)

// TestWarmReadsCostNoAllocation goes the whole road of a read but for FUSE, for a
// container and for a program of the host, for one that comes again and again.
func TestWarmReadsCostNoAllocation(t *testing.T) {
	s := testSource(t)
	for who, pid := range map[string]int{"container": sleeper(t), "host": os.Getpid()} {
		for _, n := range servedNodes {
			c := fs.Caller{PID: pid}
			turn := fs.NewTurn(c)
			var dst []byte
			for range 6 {
				var err error
				if dst, err = s.Append(dst[:0], n, turn); err != nil {
					t.Fatalf("%s: node %d: %v", who, n, err)
				}
			}
			if len(dst) == 0 && n != nodeDiskstats { // it may have done no I/O
				t.Fatalf("%s: node %d is empty", who, n)
			}
			if allocs := testing.AllocsPerRun(100, func() {
				if _, err := s.Append(dst[:0], n, turn); err != nil {
					t.Fatal(err)
				}
			}); allocs != 0 {
				t.Errorf("%s: node %d: %v allocations", who, n, allocs)
			}
		}
	}
}
