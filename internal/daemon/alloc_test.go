//go:build !race

// The race detector makes sync.Pool forget at random, so that nothing can be
// said about allocations under it.

package daemon

import (
	"os"
	"testing"

	"vprocfs/fs"
	"vprocfs/procvirt"
)

// TestWarmReadsCostNoAllocation goes the whole road of a read but for FUSE, for a
// container and for a program of the host, for one that comes again and again.
func TestWarmReadsCostNoAllocation(t *testing.T) {
	s := testSource(t)
	for who, pid := range map[string]int{"container": sleeper(t), "host": os.Getpid()} {
		for _, n := range servedNodes {
			c := fs.Caller{PID: pid}
			var dst []byte
			for i := range 6 {
				var err error
				dst, err = s.append(dst[:0], n, c, i == 0)
				if err == procvirt.ErrCold { // as below
					dst, err = s.append(dst[:0], n, c, true)
				}
				if err != nil {
					t.Fatalf("%s: node %d: %v", who, n, err)
				}
			}
			if len(dst) == 0 && n != fs.NodeDiskstats { // it may have done no I/O
				t.Fatalf("%s: node %d is empty", who, n)
			}
			if allocs := testing.AllocsPerRun(100, func() {
				_, err := s.append(dst[:0], n, c, false)
				if err == procvirt.ErrCold { // it took long the last time, on a busy machine
					_, err = s.append(dst[:0], n, c, true)
				}
				if err != nil {
					t.Fatal(err)
				}
			}); allocs != 0 {
				t.Errorf("%s: node %d: %v allocations", who, n, allocs)
			}
		}
	}
}
