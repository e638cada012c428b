// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// releaseCount is how many containers must end before their memory, some
	// 20 KiB each, is released.
	releaseCount = 64
	// releaseDelay is how long after that it is released: containers often end
	// together.
	releaseDelay = 10 * time.Second
)

// memoryReleaser releases memory to the kernel after containers have ended. Go alone
// would do so late: a process that makes no garbage collects only every two minutes.
// It is safe for concurrent use.
type memoryReleaser struct {
	ended   atomic.Int64 // since the last release
	release func()       // debug.FreeOSMemory, except in tests
}

func newMemoryReleaser() *memoryReleaser { return &memoryReleaser{release: debug.FreeOSMemory} }

// containerEnded counts a container that has ended.
func (m *memoryReleaser) containerEnded() {
	if m.ended.Add(1) == releaseCount {
		time.AfterFunc(releaseDelay, func() {
			m.ended.Store(0)
			m.release()
		})
	}
}
