package supervise

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// maxNotices bounds what waits for systemd to read. With a sign of life every ten
// seconds it stands for ten minutes.
const maxNotices = 64

// A notifier sends notices to systemd in their order, from a goroutine of its own: to
// send may block for as long as systemd does not read. Notices that do not fit are
// dropped, and the log says how many. Without systemd it does nothing.
type notifier struct {
	log     *slog.Logger
	enabled bool
	send    func(notice) error

	mu      sync.Mutex
	waiting []notice
	dropped int
	idle    chan struct{} // closed when all is sent; nil if nothing is
}

// notice is a state for sd_notify(3), or a descriptor for systemd's store.
type notice struct {
	state string
	name  string
	fd    int // -1: none
}

func newNotifier(log *slog.Logger) *notifier {
	return &notifier{log: log, enabled: os.Getenv(notifyEnv) != "", send: sendNotice}
}

func sendNotice(n notice) error {
	if n.fd >= 0 {
		return storeFile(n.name, n.fd)
	}
	_, err := daemon.SdNotify(false, n.state)
	return err
}

// tell notifies systemd of a state.
func (n *notifier) tell(state string) { n.add(notice{state: state, fd: -1}) }

// store has systemd keep fd under the name.
func (n *notifier) store(name string, fd int) error {
	if !n.enabled {
		return nil
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // fd may be closed before it is sent
	if err != nil {
		return fmt.Errorf("dup: %w", err)
	}
	n.add(notice{name: name, fd: dup})
	return nil
}

func (n *notifier) add(what notice) {
	if !n.enabled {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) >= maxNotices {
		if n.dropped++; n.dropped == 1 {
			n.log.Warn("systemd does not read: it is not told any more")
		}
		what.close()
		return
	}
	n.waiting = append(n.waiting, what)
	if n.idle == nil {
		n.idle = make(chan struct{})
		go n.sendAll()
	}
}

func (n notice) close() {
	if n.fd >= 0 {
		_ = unix.Close(n.fd)
	}
}

// sendAll sends until nothing is left.
func (n *notifier) sendAll() {
	for {
		n.mu.Lock()
		if len(n.waiting) == 0 {
			if n.dropped > 0 {
				n.log.Warn("systemd reads again", "not told", n.dropped)
				n.dropped = 0
			}
			close(n.idle)
			n.idle = nil
			n.mu.Unlock()
			return
		}
		what := n.waiting[0]
		n.waiting = n.waiting[1:]
		n.mu.Unlock()
		if err := n.send(what); err != nil {
			n.log.Warn("systemd not told", "state", strings.ReplaceAll(what.state+what.name, "\n", " "), "err", err)
		}
		what.close()
	}
}

// flush waits until all is sent, but no longer than patience.
func (n *notifier) flush(patience time.Duration) {
	n.mu.Lock()
	idle := n.idle
	n.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-time.After(patience):
	}
}
