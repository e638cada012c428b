// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// notifyEnv is the environment variable with the socket of systemd (sd_notify(3)).
const notifyEnv = "NOTIFY_SOCKET"

// isService reports whether systemd starts this process again when it dies. The children
// of a service have NOTIFY_SOCKET too, but SYSTEMD_EXEC_PID is not theirs
// (systemd.exec(5), systemd 248).
func isService() bool {
	pid := os.Getenv("SYSTEMD_EXEC_PID")
	return os.Getenv(notifyEnv) != "" && (pid == "" || pid == strconv.Itoa(os.Getpid()))
}

// storeFile gives systemd a descriptor to keep over a restart of the service, which
// go-systemd cannot (22.7.0). FileDescriptorStoreMax= must allow it
// (systemd.service(5)). Systemd polls none of them (FDPOLL=0, systemd 246), because a
// FUSE connection that ends is noticed by whoever has it.
func storeFile(name string, fd int) error {
	path := os.Getenv(notifyEnv)
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket for systemd: %w", err)
	}
	defer unix.Close(s)
	state := []byte("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name)
	if err := unix.Sendmsg(s, state, unix.UnixRights(fd), &unix.SockaddrUnix{Name: path}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("send to %s: %w", path, err)
	}
	return nil
}

// dropState has systemd close the descriptors that it keeps under the name. A new one
// of the same name does not take their place.
func dropState(name string) string { return "FDSTOREREMOVE=1\nFDNAME=" + name }

// listenFiles returns the descriptors that systemd has passed to this process, by name.
// It removes the environment variables that describe them (sd_listen_fds(3)).
func listenFiles() map[string]*os.File {
	files := make(map[string]*os.File)
	for _, f := range activation.Files(true) {
		if old := files[f.Name()]; old != nil {
			old.Close()
		}
		files[f.Name()] = f
	}
	_ = os.Unsetenv("LISTEN_PIDFDID") // which go-systemd does not know yet
	return files
}

// watchdog returns how long systemd waits for a sign of life; 0 is for ever.
func (h *Holder) watchdog() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		h.cfg.Log.Warn("systemd's watchdog gets no sign of life", "err", err)
	}
	return d
}

func (h *Holder) storeAll() {
	for name, f := range h.files {
		h.store(name, f)
	}
}

func (h *Holder) store(name string, f *os.File) {
	if err := h.systemd.store(name, int(f.Fd())); err != nil {
		h.cfg.Log.Warn("descriptor not stored with systemd", "name", name, "err", err)
	}
}

func (h *Holder) drop(name string) { h.systemd.tell(dropState(name)) }
