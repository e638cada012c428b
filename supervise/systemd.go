package supervise

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The environment variables of systemd: sd_notify(3), sd_listen_fds(3),
// sd_watchdog_enabled(3).
const (
	notifyEnv = "NOTIFY_SOCKET"
)

// notify tells systemd something, with descriptors for its store. Without systemd
// it does nothing.
func notify(state string, fds ...int) error {
	path := os.Getenv(notifyEnv)
	if path == "" {
		return nil
	}
	if path[0] == '@' {
		path = "\x00" + path[1:] // an abstract address
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify systemd: socket: %w", err)
	}
	defer unix.Close(s)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(s, []byte(state), rights, &unix.SockaddrUnix{Name: path}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// storeFile gives systemd a descriptor to keep over a restart of the service.
// FileDescriptorStoreMax= must allow it (systemd.service(5)); it polls none of
// them (FDPOLL=0, systemd 246), for a FUSE connection that ends is noticed by
// whoever holds it.
func storeFile(name string, fd int) error {
	return notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd)
}

// dropFile has systemd close the descriptors that it keeps under the name. A new one
// of the same name does not take their place.
func dropFile(name string) error { return notify("FDSTOREREMOVE=1\nFDNAME=" + name) }

// watchdog is how long systemd waits for a sign of life, 0 for ever.
func watchdog() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// listenFiles takes the descriptors that systemd hands to this process, by their
// names, and removes the variables that say so.
func listenFiles() map[string]*os.File {
	const first = 3
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		_ = os.Unsetenv(name) // fails only for names that are none
	}
	n, err := strconv.Atoi(count)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	files := make(map[string]*os.File)
	for i, name := range strings.Split(names, ":") {
		if i >= n {
			break
		}
		unix.CloseOnExec(first + i)
		f := os.NewFile(uintptr(first+i), name)
		if old := files[name]; old != nil {
			old.Close()
		}
		files[name] = f
	}
	return files
}

// tell notifies systemd.
func (h *Holder) tell(state string) {
	if err := notify(state); err != nil {
		h.cfg.Log.Warn("systemd not told", "state", strings.ReplaceAll(state, "\n", " "), "err", err)
	}
}

func (h *Holder) storeAll() {
	for name, f := range h.files {
		h.store(name, f)
	}
}

func (h *Holder) store(name string, f *os.File) {
	if err := storeFile(name, int(f.Fd())); err != nil {
		h.cfg.Log.Warn("descriptor not stored with systemd", "name", name, "err", err)
	}
}

func (h *Holder) drop(name string) {
	if err := dropFile(name); err != nil {
		h.cfg.Log.Warn("descriptor not removed from systemd's store", "name", name, "err", err)
	}
}
