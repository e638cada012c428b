// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/inject/watch"
)

// A holder and its watcher share a pair of sockets. Over it the watcher tells its numbers
// whenever they change, and its end tells the watcher that the holder has ended. So the
// holder, which must not wait for the watcher, has the last numbers at hand. The holder tells
// the level of the log.
const (
	maxWatchMessage = 32 << 10
	// statusEvery is the least time between two messages.
	statusEvery = 200 * time.Millisecond
)

// newWatchLine returns the holder's and the watcher's end.
func newWatchLine() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "watcher")
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that Close ends a Read
		return nil, nil, errors.Join(err, unix.Close(fds[0]), theirs.Close())
	}
	return os.NewFile(uintptr(fds[0]), "watcher"), theirs, nil
}

// lastStatus is what a holder knows of its watcher. It is safe for concurrent use.
type lastStatus struct {
	mu  sync.Mutex
	now *watch.Status // nil while no watcher watches
}

// get returns the last numbers of the watcher that runs, or nil if none does. They must not
// be changed.
func (l *lastStatus) get() *watch.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *lastStatus) set(s *watch.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = s
}

// receive keeps the numbers that come from a watcher, until it ends.
func (l *lastStatus) receive(conn io.Reader) {
	defer l.set(nil)
	for buf := make([]byte, maxWatchMessage); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		s := new(watch.Status)
		if json.Unmarshal(buf[:n], s) == nil {
			l.set(s)
		}
	}
}

// tellStatus sends the numbers of a watcher whenever they change, until the holder ends.
func tellStatus(conn io.Writer, stats *watch.Stats) {
	for range stats.Changed() {
		s := stats.Status()
		s.LastError = truncated(s.LastError)
		text, err := json.Marshal(s)
		if err == nil {
			_, err = conn.Write(text)
		}
		if err != nil {
			return
		}
		time.Sleep(statusEvery)
	}
}

// setLine makes line the holder's end to the watcher that runs.
func (k *keeper) setLine(line *os.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.line = line
	k.tellLevel()
}

// setLevel changes the level of the log of the watcher, and of those to come. A nil keeper
// has none.
func (k *keeper) setLevel(level string) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.level = level
	k.tellLevel()
}

// tellLevel sends the level to the watcher. k.mu is held. It does not wait for a watcher
// that hangs.
func (k *keeper) tellLevel() {
	if k.line == nil || k.level == "" {
		return
	}
	_ = k.line.SetWriteDeadline(time.Now().Add(levelPatience))
	_, _ = k.line.WriteString(k.level) // the watcher has ended, or hangs
}

// levelPatience is how long a holder waits for a watcher that does not read.
const levelPatience = 10 * time.Millisecond

// followLevel sets the level of the log to each that comes from the holder, until that ends.
func followLevel(conn io.Reader, log *LogOptions) {
	for buf := make([]byte, 64); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		_ = log.SetLevel(string(buf[:n])) // the holder knows only levels
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
