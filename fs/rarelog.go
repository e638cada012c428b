package fs

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// rareLog counts what may happen often, and logs the first few and then one a minute at
// most. It is safe for concurrent use.
type rareLog struct {
	count atomic.Uint64
	first uint64 // how many are all logged

	mu     sync.Mutex
	logged time.Time
}

// logPeriod is the shortest time between two lines of a rareLog.
const logPeriod = time.Minute

// note counts one, and logs it if it is due.
func (r *rareLog) note(log *slog.Logger, message string, args ...any) {
	count := r.count.Add(1)
	if count <= r.first || r.isDue() {
		log.Error(message, append(args, "count", count)...)
	}
}

func (r *rareLog) isDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.logged.IsZero() && now.Sub(r.logged) < logPeriod {
		return false
	}
	r.logged = now
	return true
}
