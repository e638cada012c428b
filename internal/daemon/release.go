package daemon

import (
	"runtime/debug"
	"sync"
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
	mu      sync.Mutex
	ended   int
	pending bool
	release func() // debug.FreeOSMemory, except in tests
}

func newMemoryReleaser() *memoryReleaser { return &memoryReleaser{release: debug.FreeOSMemory} }

// containerEnded counts a container that has ended.
func (m *memoryReleaser) containerEnded() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended++; m.ended >= releaseCount && !m.pending {
		m.pending = true
		time.AfterFunc(releaseDelay, m.run)
	}
}

func (m *memoryReleaser) run() {
	m.mu.Lock()
	m.ended, m.pending = 0, false
	m.mu.Unlock()
	m.release()
}
