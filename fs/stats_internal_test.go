// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"syscall"
	"testing"
)

// TestARefusalIsCountedByReason, and no other error is one.
func TestARefusalIsCountedByReason(t *testing.T) {
	c := newCounters(0)
	for _, err := range []error{errQueueFull, fmt.Errorf("uptime: %w", errQueueFull), errHoldsInode, errTooManyFiles, syscall.EAGAIN, syscall.ENOENT} {
		c.countRefusal(err)
	}
	want := [numRefusals]uint64{refusedQueue: 2, refusedInode: 1, refusedHandles: 1}
	for r := range want {
		if got := c.refusals[r].Load(); got != want[r] {
			t.Errorf("%s: %d, want %d", refusalNames[r], got, want[r])
		}
	}
}
