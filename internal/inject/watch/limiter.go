package watch

import (
	"log/slog"
	"sync"
	"time"
)

const (
	maxWarnings  = 10
	warningsEach = time.Minute
)

// limiter limits how many warnings are logged: containers cause them. It is safe for
// concurrent use.
type limiter struct {
	mu      sync.Mutex
	begin   time.Time
	logged  int
	dropped int
}

// warn logs a warning, unless maxWarnings were logged within warningsEach.
func (l *limiter) warn(log *slog.Logger, msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.begin) >= warningsEach {
		if l.dropped > 0 {
			log.Warn("more warnings were not logged", "count", l.dropped)
		}
		l.begin, l.logged, l.dropped = now, 0, 0
	}
	if l.logged == maxWarnings {
		l.dropped++
		return
	}
	l.logged++
	log.Warn(msg, args...)
}
