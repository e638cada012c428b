// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/internal/seccomp"
	"vprocfs/internal/supervise"
	"vprocfs/internal/syscalls"
)

// Names of descriptors, beside those of syscalls.Name.
const (
	fileCalls       = "vprocfs-calls"        // of syscalls.NewTable
	fileCallsSocket = "vprocfs-calls-socket" // where runtimes connect
)

// isOfCalls reports whether the descriptor of that name serves system calls. Containers
// need it as long as they run, whatever becomes of the mount: without it they get ENOSYS.
func isOfCalls(name string) bool {
	return name == fileCalls || name == fileCallsSocket || strings.HasPrefix(name, syscalls.NamePrefix)
}

// callKeeper is what a holder has of the system calls of containers: the socket, where
// runtimes hand over listeners, the listeners, and the watch over them. A nil callKeeper
// has none.
type callKeeper struct {
	path     string // of the socket
	socket   *net.UnixListener
	former   *net.UnixListener // of a former process; nil: none
	watchman *syscalls.Watchman
	offer    func(name string, f *os.File)
	log      *slog.Logger

	// slots has an element for each runtime that is about to hand over a listener.
	slots chan struct{}
}

// CallStatus is what the holder knows of system calls.
type CallStatus struct {
	// Socket is the listenerPath for the configuration of a container. It is empty if no new
	// containers are taken (--syscalls).
	Socket    string `json:"socket,omitempty"`
	Listeners int    `json:"listeners"`
	// Late are calls that no worker answered for a second: the kernel carried them out.
	Late uint64 `json:"late"`
}

// takeCalls removes the descriptors that serve system calls from those of a former process,
// and returns them.
func takeCalls(a *supervise.Adopted) map[string]*os.File {
	taken := make(map[string]*os.File)
	if a == nil {
		return taken
	}
	for name, f := range a.Files {
		if isOfCalls(name) {
			taken[name] = f
			delete(a.Files, name)
		}
	}
	return taken
}

// newCallKeeper returns a keeper that goes on with what a former process has left, and adds
// its descriptors to files. It returns nil if there is nothing to do. Without Syscalls it
// takes no new containers, but those that have a listener are answered. What fails is logged:
// the files are served without system calls.
func (o *Options) newCallKeeper(dir string, kept, files map[string]*os.File, log *slog.Logger) *callKeeper {
	if !o.Syscalls && kept[fileCalls] == nil {
		return nil
	}
	k := &callKeeper{log: log, slots: make(chan struct{}, maxAdmissions)}
	table, err := openCalls(kept, log)
	if err != nil {
		log.Error("no system calls are answered", "err", err)
		return nil
	}
	k.watchman = syscalls.NewWatchman(table, log)
	if o.Syscalls {
		err = k.listen(control.SeccompPath(dir), kept)
	} else if f := kept[fileCallsSocket]; f != nil {
		delete(kept, fileCallsSocket)
		err = f.Close()
	}
	if err != nil {
		log.Error("the system calls of new containers are not answered", "err", err)
	}
	for name, f := range kept {
		files[name] = f
		if n, ok := syscalls.ParseName(name); ok {
			if err := k.watchman.Watch(n, int(f.Fd())); err != nil {
				log.Error("a listener is not watched: its callers wait while there is no worker", "name", name, "err", err)
			}
		}
	}
	return k
}

// openCalls opens the table of a former process, or makes one, which no listener of a former
// process can be used with.
func openCalls(kept map[string]*os.File, log *slog.Logger) (*syscalls.Table, error) {
	if f := kept[fileCalls]; f != nil {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		table, err := syscalls.OpenTable(fd)
		if err == nil {
			return table, nil
		}
		log.Error("what a former process has left cannot be used: containers get ENOSYS", "err", err)
		unix.Close(fd)
		f.Close()
	}
	table, err := syscalls.NewTable(fileCalls)
	if err == nil {
		kept[fileCalls] = os.NewFile(uintptr(table.FD()), fileCalls)
	}
	return table, err
}

// listen opens the socket. There is one at path at any time: what connects while there is no
// holder waits in that of a former process, which is emptied first.
func (k *callKeeper) listen(path string, kept map[string]*os.File) error {
	if f := kept[fileCallsSocket]; f != nil {
		l, err := net.FileListener(f)
		if u, ok := l.(*net.UnixListener); err == nil && ok {
			k.former = u
		}
		// systemd keeps one of each name.
		old := supervise.Adopted{Files: map[string]*os.File{fileCallsSocket: f}}
		if err := old.Drop(); err != nil {
			return err
		}
		delete(kept, fileCallsSocket)
	}
	if err := control.MakeDir(filepath.Dir(path)); err != nil {
		return err
	}
	own := filepath.Join(filepath.Dir(path), fmt.Sprintf(".seccomp-%d", os.Getpid()))
	if err := os.Remove(own); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: own, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // a successor takes over
	k.path, k.socket = path, l
	if kept[fileCallsSocket], err = l.File(); err != nil {
		return err
	}
	return errors.Join(os.Chmod(own, 0o600), os.Rename(own, path))
}

// maxAdmissions is how many runtimes may be about to hand over a listener.
const maxAdmissions = 64

// run accepts runtimes, and gives the listeners that they hand over to offer.
func (k *callKeeper) run(offer func(name string, f *os.File)) {
	if k == nil || k.socket == nil {
		return
	}
	k.offer = offer
	if k.former != nil && k.former.SetDeadline(time.Now().Add(formerPatience)) == nil {
		go func() {
			k.accept(k.former)
			_ = k.former.Close() // nobody can connect to it any more
		}()
	}
	k.accept(k.socket)
}

// accept accepts runtimes until the socket is closed, or its deadline has come.
func (k *callKeeper) accept(socket *net.UnixListener) {
	for {
		k.slots <- struct{}{}
		c, err := socket.AcceptUnix()
		if err != nil {
			<-k.slots
			switch {
			case errors.Is(err, net.ErrClosed), socket != k.socket:
				return
			case errors.Is(err, os.ErrDeadlineExceeded):
				continue // pause
			}
			time.Sleep(admissionPause) // of descriptors that are short, for example
			continue
		}
		go func() {
			defer func() { <-k.slots }()
			defer func() { _ = c.Close() }() // nothing is left to say
			if err := k.admit(c); err != nil {
				k.log.Error("the system calls of a container are not answered", "err", err)
			}
		}()
	}
}

// formerPatience is more than it takes to accept those who wait. Nobody else can connect to
// the socket of a former process.
const formerPatience = 5 * time.Second

const admissionPause = 100 * time.Millisecond

// admit takes over the listener that a runtime sends over c.
func (k *callKeeper) admit(c *net.UnixConn) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	p, fd, err := seccomp.ReceiveOCIFD(c)
	if errors.Is(err, seccomp.ErrNothing) {
		return nil // who looks whether anybody listens
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "seccomp listener")
	n, err := k.watchman.Admit(p.Container, fd)
	if err != nil {
		f.Close()
		return fmt.Errorf("container %s: %w", p.Container, err)
	}
	k.log.Debug("system calls of a container are answered", "container", p.Container, "pid", p.PID)
	k.offer(n.String(), f)
	return nil
}

// pausePatience is how long pause waits for runtimes that are about to hand over a listener.
const pausePatience = 2 * time.Second

// pause waits until no runtime is about to hand over a listener, and accepts none before
// resume is called: this process is about to forget them.
func (k *callKeeper) pause() (resume func()) {
	if k == nil || k.socket == nil {
		return func() {}
	}
	_ = k.socket.SetDeadline(time.Now()) // it is open
	if k.former != nil {
		_ = k.former.SetDeadline(time.Now()) // empty by now, or closed
	}
	end, taken := time.After(pausePatience), 0
	for taken < maxAdmissions {
		select {
		case k.slots <- struct{}{}:
			taken++
			continue
		case <-end:
		}
		break
	}
	return func() {
		_ = k.socket.SetDeadline(time.Time{})
		for range taken {
			<-k.slots
		}
	}
}

// dropped forgets the listener of that name.
func (k *callKeeper) dropped(name string) {
	if n, ok := syscalls.ParseName(name); ok && k != nil {
		k.watchman.Forget(n)
	}
}

// status returns nil if k is nil.
func (k *callKeeper) status() *CallStatus {
	if k == nil {
		return nil
	}
	s := &CallStatus{Socket: k.path}
	s.Listeners, s.Late = k.watchman.Count()
	return s
}

// stop prepares the end of this process: it removes the socket, and takes the listeners out of
// systemd's store. Calls then fail with ENOSYS; if the store kept a listener, they would wait
// for ever. It does nothing if systemd keeps the descriptors for a successor.
func (k *callKeeper) stop(keepMount bool, withdraw func(which func(name string) bool)) {
	if k == nil || startsAgainHere(keepMount) {
		return
	}
	if k.path != "" {
		_ = os.Remove(k.path) // so that no runtime is told to connect to it
	}
	withdraw(isOfCalls)
}

// startsAgainPatience is how long systemd may take to say whether it starts the daemon again.
const startsAgainPatience = 2 * time.Second

// startsAgainHere reports whether systemd is about to start this daemon again, and keeps its
// descriptors until then. On any doubt it does.
func startsAgainHere(keepMount bool) bool {
	unit := ownUnit()
	if !keepMount || unit == "" || os.Getenv("NOTIFY_SOCKET") == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), startsAgainPatience)
	defer cancel()
	again, err := StartsAgain(ctx, unit)
	return again || err != nil
}

// ownUnit returns the name of the service that this process is of, empty for none.
func ownUnit() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (f[1] == "" || f[1] == "name=systemd") && strings.HasSuffix(f[2], ".service") {
			return path.Base(f[2])
		}
	}
	return ""
}
