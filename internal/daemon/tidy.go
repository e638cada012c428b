package daemon

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	// tidyCount is how many containers must have ended before their memory is
	// worth a collection: some 20 KiB each.
	tidyCount = 64
	// tidyAfter is how long after that it is given back: many end together.
	tidyAfter = 10 * time.Second
)

// tidier gives memory back to the kernel when containers have ended. Go would keep
// it: a daemon that makes no garbage collects none, but every two minutes, and what
// is free goes back slowly after that. It is safe for concurrent use.
type tidier struct {
	mu    sync.Mutex
	ended int
	set   bool
	free  func() // debug.FreeOSMemory but in tests
}

func newTidier() *tidier { return &tidier{free: debug.FreeOSMemory} }

// gone says that one container more has ended.
func (t *tidier) gone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended++; t.ended >= tidyCount && !t.set {
		t.set = true
		time.AfterFunc(tidyAfter, t.tidy)
	}
}

func (t *tidier) tidy() {
	t.mu.Lock()
	t.ended, t.set = 0, false
	t.mu.Unlock()
	t.free()
}
