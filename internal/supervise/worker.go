// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/internal/fdconn"
)

// Worker is the worker's side. Its methods are safe for concurrent use.
type Worker struct {
	// Files are the descriptors by their names. Ready may change those of a candidate, and
	// Keep changes them.
	Files map[string]int
	// Log is the descriptor of the log: the holder's stderr. The stderr of this process is
	// a file in memory, which the holder copies to the log, so that not even the Go runtime
	// waits for the reader of the log when it prints why it crashes.
	Log int
	// Crashed is true if the last worker crashed or hung. It is valid after Ready, like
	// Toggled.
	Crashed bool
	// Candidate is true if this worker is to replace one that works. It should test
	// itself before Ready.
	Candidate bool
	// Toggled is true if Toggle was asked for an odd number of times before Serving.
	Toggled bool
	// Level is the level of the log that was asked for before Serving, empty for none.
	Level string

	keeping   sync.Mutex // held while Files is used after Serving
	control   atomic.Pointer[fdconn.Conn]
	stopping  atomic.Bool
	unmanaged bool
	sys       system
}

// workerState is the state that a new worker gets in its environment.
type workerState struct {
	Files     map[string]int `json:"files"`
	Control   int            `json:"control"`
	Log       int            `json:"log"`
	Candidate bool           `json:"candidate"`
	// Unmanaged is true if systemd does not start another holder.
	Unmanaged bool `json:"unmanaged"`
}

// Orders are the orders of the holder. They are called one at a time.
type Orders struct {
	// Stop ends the work.
	Stop func()
	// Ping returns an error if the worker does not work. The holder gets no answer then.
	Ping func() error
	// Toggle switches what a signal to the holder asks for.
	Toggle func()
	// Level sets the level of the log.
	Level func(level string)
	// Ask answers a client of the control socket. It must not wait.
	Ask func(*control.Client)
	// Offer says that the holder has got a descriptor, which is in Files. It may be nil if
	// there are no offers.
	Offer func(name string)
}

// NewWorker returns nil if this process was not started as a worker.
func NewWorker() (*Worker, error) {
	var s workerState
	ok, err := takeState(workerEnv, &s)
	if !ok || err != nil {
		return nil, err
	}
	for _, fd := range s.Files {
		unix.CloseOnExec(fd)
	}
	unix.CloseOnExec(s.Log)
	c, err := fdconn.New(os.NewFile(uintptr(s.Control), "control"))
	if err != nil {
		return nil, err
	}
	// These are the holder's business, and whoever reads the log may go away.
	signal.Ignore(unix.SIGPIPE, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	w := &Worker{Files: s.Files, Log: s.Log, Candidate: s.Candidate, unmanaged: s.Unmanaged, sys: realSystem()}
	w.control.Store(c)
	return w, nil
}

// Ready says that this process could work, and waits until it is to begin. No other
// process works with the descriptors then. If the holder dies before it says so, a
// candidate gets an error. Any other worker begins: there is no other one.
func (w *Worker) Ready() error {
	err := w.ready()
	if errors.Is(err, errHolderGone) && !w.Candidate {
		return nil
	}
	return err
}

// errHolderGone says that nobody is at the other end of the control socket.
var errHolderGone = errors.New("the holder is gone")

func (w *Worker) ready() error {
	c := w.control.Load()
	if err := send(c, msgReady, ""); err != nil {
		return fmt.Errorf("%w: %w", errHolderGone, err)
	}
	for {
		switch m, err := receive(c); {
		case err != nil:
			return fmt.Errorf("%w: %w", errHolderGone, err)
		case m.word == msgKeep && m.file != nil:
			if err := w.replaceFile(m.rest, m.file); err != nil {
				return err
			}
		case m.word == msgStop:
			return errors.New("told to end before it began")
		case m.word != msgGo:
			return fmt.Errorf("the holder says %q instead of %q", m.word, msgGo)
		default:
			w.Crashed, w.Toggled = strings.Contains(m.rest, crashed), strings.Contains(m.rest, toggled)
			_, w.Level, _ = strings.Cut(m.rest, levelIs)
			return nil
		}
	}
}

// replaceFile takes f over, which a worker has had kept since this candidate began.
func (w *Worker) replaceFile(name string, f *os.File) error {
	defer f.Close()
	fd, err := w.sys.dup(int(f.Fd()))
	if err != nil {
		return fmt.Errorf("dup of %s: %w", name, err)
	}
	if old, ok := w.Files[name]; ok {
		_ = unix.Close(old)
	}
	w.Files[name] = fd
	return nil
}

// Serving says that the work is done now, and follows the holder's orders from then
// on. If the holder is gone this process goes on working, and starts another holder,
// unless it was told to stop or systemd does that.
func (w *Worker) Serving(log *slog.Logger, o Orders) {
	_ = send(w.control.Load(), msgServing, "") // the loop finds out
	go w.run(log, o)
}

// run follows the orders of one holder after another. It never gives up, and starts
// holders that do not last with a growing wait between them.
func (w *Worker) run(log *slog.Logger, o Orders) {
	var wait backoff
	for {
		begun := w.sys.now()
		if w.follow(o); w.stopping.Load() {
			o.Stop()
			return
		}
		if !w.unmanaged {
			log.Warn("the holder is gone: working on, until systemd starts another")
			return
		}
		if w.sys.now().Sub(begun) >= holderGoodAfter {
			wait = backoff{}
		}
		for {
			w.sys.sleep(wait.next(minHolderBackoff, maxHolderBackoff))
			pid, err := w.newHolder()
			if err == nil {
				log.Warn("the holder is gone: started another", "pid", pid)
				break
			}
			log.Error("the holder is gone, and another is not started yet: working on", "err", err, "again", wait.wait)
		}
	}
}

// follow follows orders until the holder is gone or says stop.
func (w *Worker) follow(o Orders) {
	c := w.control.Load()
	for {
		m, err := receive(c)
		if err != nil {
			return
		}
		switch m.word {
		case msgStop:
			w.stopping.Store(true)
			return
		case msgPing:
			if o.Ping() == nil {
				_ = send(c, msgPong, "")
			}
		case msgToggle:
			w.Toggled = !w.Toggled
			o.Toggle()
		case msgLevel:
			w.Level = m.rest
			o.Level(m.rest)
		case msgKeep:
			if m.file != nil && o.Offer != nil && w.offered(m.rest, m.file) == nil {
				o.Offer(m.rest)
			}
		case msgAsk:
			if m.file == nil {
				continue
			}
			if client, err := control.NewClient(m.file, m.rest); err == nil {
				o.Ask(client)
			}
		}
	}
}

// Keep gives the holder a descriptor, which later workers find in Files under the
// name. It replaces one of that name.
func (w *Worker) Keep(name string, fd int) {
	w.keeping.Lock()
	defer w.keeping.Unlock()
	_ = sendFile(w.control.Load(), msgKeep, name, fd) // gone: the next holder gets all Files
	w.Files[name] = fd
}

// offered takes over what the holder offers.
func (w *Worker) offered(name string, f *os.File) error {
	w.keeping.Lock()
	defer w.keeping.Unlock()
	return w.replaceFile(name, f)
}

// File returns a new descriptor of what Files has under the name.
func (w *Worker) File(name string) (fd int, err error) {
	w.keeping.Lock()
	defer w.keeping.Unlock()
	old, ok := w.Files[name]
	if !ok {
		return -1, fmt.Errorf("no descriptor %s", name)
	}
	return w.sys.dup(old)
}

// Drop closes a descriptor of Files, and tells the holder that it is of no use any more. If
// the holder does not hear of it, the next worker drops it again.
func (w *Worker) Drop(name string) {
	w.keeping.Lock()
	defer w.keeping.Unlock()
	if fd, ok := w.Files[name]; ok {
		_ = unix.Close(fd)
		delete(w.Files, name)
	}
	_ = send(w.control.Load(), msgDrop, name)
}

// Over tells the holder that there is nothing left to do, because of err where
// that is not nil. The caller ends the process then.
func (w *Worker) Over(err error) { w.end(msgOver, err) }

// Aborted tells the holder that the connection was aborted, because of err if that is
// not nil: the next worker gets another one (Config.Renew). The caller ends the process
// then.
func (w *Worker) Aborted(err error) { w.end(msgAborted, err) }

func (w *Worker) end(word string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	_ = send(w.control.Load(), word, text[:min(len(text), fdconn.MaxText-100)]) // gone: nobody to tell
}

// newHolder starts a process that is the holder of this one.
func (w *Worker) newHolder() (pid int, err error) {
	ours, theirs, err := w.sys.pair()
	if err != nil {
		return 0, err
	}
	s := holderState{Files: make(map[string]int), Worker: os.Getpid(), Control: 3, Toggled: w.Toggled, Level: w.Level}
	files := []*os.File{theirs}
	defer func() {
		for _, f := range files {
			f.Close()
		}
		if err != nil {
			_ = ours.Close() // nobody has the other end
		}
	}()
	w.keeping.Lock()
	defer w.keeping.Unlock()
	for name, fd := range w.Files {
		dup, err := w.sys.dup(fd)
		if err != nil {
			return 0, fmt.Errorf("dup of %s: %w", name, err)
		}
		s.Files[name] = 3 + len(files)
		files = append(files, os.NewFile(uintptr(dup), name))
	}
	log, err := w.sys.dup(w.Log)
	if err != nil {
		return 0, fmt.Errorf("dup of the log: %w", err)
	}
	stderr := os.NewFile(uintptr(log), "log")
	defer stderr.Close()
	cmd, err := command("/proc/self/exe", holderEnv, s, files, stderr)
	if err != nil {
		return 0, err
	}
	if err := w.sys.start(cmd); err != nil {
		return 0, fmt.Errorf("start a holder: %w", err)
	}
	old := w.control.Swap(ours)
	_ = old.Close()                // the other end is gone
	go func() { _ = cmd.Wait() }() // no zombie
	return cmd.Process.Pid, nil
}
