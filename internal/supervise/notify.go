// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// maxNotices bounds what waits for systemd to read. With a sign of life every ten
// seconds it stands for hours; each descriptor that is stored is one, too.
const maxNotices = 4096

// A notifier sends notices to systemd in their order, from a goroutine of its own: to
// send may block for as long as systemd does not read. Notices that do not fit are
// dropped, and the log says how many.
type notifier struct {
	log     *slog.Logger
	notices chan notice // nil: there is no systemd
	dropped atomic.Int64
}

// notice is a state for sd_notify(3), or a descriptor for systemd's store.
type notice struct {
	state string
	name  string
	fd    int           // -1: none
	done  chan struct{} // closed in its turn, and nothing is sent; nil: a notice
}

func newNotifier(log *slog.Logger) *notifier {
	n := &notifier{log: log}
	if os.Getenv(notifyEnv) != "" {
		n.start(sendNotice)
	}
	return n
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
	if n.notices == nil {
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
	if n.notices == nil {
		return
	}
	select {
	case n.notices <- what:
	default:
		if n.dropped.Add(1) == 1 {
			n.log.Warn("systemd does not read: it is not told any more")
		}
		what.close()
	}
}

func (n notice) close() {
	if n.fd >= 0 {
		_ = unix.Close(n.fd)
	}
}

func (n *notifier) start(send func(notice) error) {
	n.notices = make(chan notice, maxNotices)
	go func() {
		for what := range n.notices {
			if what.done != nil {
				close(what.done)
				continue
			}
			if err := send(what); err != nil {
				n.log.Warn("systemd not told", "state", strings.ReplaceAll(what.state+what.name, "\n", " "), "err", err)
			}
			what.close()
			if dropped := n.dropped.Swap(0); dropped > 0 {
				n.log.Warn("systemd reads again", "not told", dropped)
			}
		}
	}()
}

// flush waits until all is sent, but no longer than patience.
func (n *notifier) flush(patience time.Duration) {
	if n.notices == nil {
		return
	}
	end, done := time.After(patience), make(chan struct{})
	select {
	case n.notices <- notice{done: done}:
	case <-end:
		return
	}
	select {
	case <-done:
	case <-end:
	}
}
