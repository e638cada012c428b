package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/inject/watch"
)

// A holder and its watcher share a pair of sockets, whose end tells the watcher that the
// holder has ended. Over it the holder asks for the watcher's numbers: each message is a
// number, and the answer to it is a watchAnswer with the same number.
const maxWatchMessage = 32 << 10

// statusPatience is how long a holder waits for its watcher's answer.
const statusPatience = time.Second

type watchAnswer struct {
	ID     int          `json:"id"`
	Status watch.Status `json:"status"`
}

var errNoWatcher = errors.New("no watcher runs")

// statusLine is the holder's end. It is safe for concurrent use.
type statusLine struct {
	mu   sync.Mutex
	conn *os.File // nil while no watcher runs
	last int
}

// newStatusLine returns the ends of a line.
func newStatusLine() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "watcher")
	if err := unix.SetNonblock(fds[0], true); err != nil { // for deadlines
		return nil, nil, errors.Join(err, unix.Close(fds[0]), theirs.Close())
	}
	return os.NewFile(uintptr(fds[0]), "watcher"), theirs, nil
}

// connect makes conn the line to the watcher that runs; nil for none.
func (l *statusLine) connect(conn *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
}

// status asks the watcher for its numbers.
func (l *statusLine) status(patience time.Duration) (watch.Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return watch.Status{}, errNoWatcher
	}
	l.last++
	if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return watch.Status{}, err
	}
	if _, err := fmt.Fprint(l.conn, l.last); err != nil {
		return watch.Status{}, fmt.Errorf("ask the watcher: %w", err)
	}
	for buf := make([]byte, maxWatchMessage); ; {
		n, err := l.conn.Read(buf)
		if err != nil {
			return watch.Status{}, fmt.Errorf("the watcher's answer: %w", err)
		}
		var a watchAnswer
		if err := json.Unmarshal(buf[:n], &a); err != nil {
			return watch.Status{}, fmt.Errorf("the watcher's answer: %w", err)
		}
		if a.ID == l.last { // not a late answer to an earlier question
			return a.Status, nil
		}
	}
}

// status returns the numbers of the watcher that runs.
func (k *keeper) status() (watch.Status, error) { return k.line.status(statusPatience) }

// answerStatus answers the holder's questions until it ends.
func answerStatus(conn *os.File, stats *watch.Stats) {
	for buf := make([]byte, 32); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		var a watchAnswer
		if _, err := fmt.Sscan(string(buf[:n]), &a.ID); err != nil {
			continue
		}
		a.Status = stats.Status()
		a.Status.LastError = truncated(a.Status.LastError)
		text, err := json.Marshal(a)
		if err != nil {
			continue
		}
		_, _ = conn.Write(text) // an error: the holder has ended
	}
}

// truncated returns the beginning of an error, which may name dozens of files.
func truncated(text string) string {
	const most = 1000
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
