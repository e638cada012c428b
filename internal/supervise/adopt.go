// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/internal/fdconn"
)

// holderState is the state that a new holder gets in its environment.
type holderState struct {
	Files   map[string]int `json:"files"`
	Own     map[string]int `json:"own,omitempty"`
	Worker  int            `json:"worker"`
	Control int            `json:"control"`
	Reply   int            `json:"reply,omitempty"` // 0: nobody waits
	Upgrade bool           `json:"upgrade"`
	Toggled bool           `json:"toggled"`
	Level   string         `json:"level,omitempty"`
	Tally   Tally          `json:"tally,omitzero"`
}

// become makes this process the new program, with the same pid. It returns only
// if that fails.
func (h *Holder) become(a become) (err error) {
	worker := h.procs[a.worker]
	if worker == nil {
		return errors.New("there is no worker")
	}
	if h.cfg.Pause != nil {
		resume := h.cfg.Pause()
		defer resume()
		h.takeOffers()
	}
	s := holderState{Files: make(map[string]int), Own: h.cfg.Own, Worker: worker.handle.Pid, Upgrade: true, Toggled: a.toggled, Level: a.level, Tally: a.tally}
	var passed []int
	defer func() {
		for _, fd := range passed {
			unix.CloseOnExec(fd)
		}
	}()
	pass := func(fd int) int {
		passed = append(passed, fd)
		return fd
	}
	for name, f := range h.files {
		s.Files[name] = pass(int(f.Fd()))
	}
	for _, fd := range h.cfg.Own {
		pass(fd)
	}
	control, err := worker.control.File()
	if err != nil {
		return err
	}
	defer control.Close()
	s.Control = pass(int(control.Fd()))
	if r := h.clients[a.client]; r != nil {
		f, err := r.File()
		if err != nil {
			return err
		}
		defer f.Close()
		s.Reply = pass(int(f.Fd()))
	}
	text, err := encodeState(s)
	if err != nil {
		return err
	}
	for _, fd := range passed {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("fcntl: %w", err)
		}
	}
	h.systemd.tell("RELOADING=1")
	h.systemd.flush(exitPatience) // nobody sends it afterwards
	err = unix.Exec(h.cfg.Program, os.Args, append(os.Environ(), holderEnv+"="+text))
	h.systemd.tell("READY=1")
	return fmt.Errorf("exec %s: %w", h.cfg.Program, err)
}

// Adopted is what this process has from another holder, or from systemd.
type Adopted struct {
	// Files are the descriptors that the workers have.
	Files map[string]*os.File
	// Own are those of Config.Own.
	Own map[string]int

	worker   int
	control  *fdconn.Conn // nil: there is no worker
	reply    *control.Client
	upgraded bool
	toggled  bool
	level    string
	tally    Tally
	sys      system
}

// Working reports whether there is a worker at work.
func (a *Adopted) Working() bool { return a != nil && a.control != nil }

// Drop closes the descriptors of Files, and removes them from systemd's store. A
// connection ends only with its last descriptor; until then its users wait.
func (a *Adopted) Drop() error {
	var errs []error
	systemd := newNotifier(slog.New(slog.DiscardHandler))
	for name, f := range a.Files {
		systemd.tell(dropState(name))
		errs = append(errs, f.Close())
	}
	systemd.flush(exitPatience)
	a.Files = nil
	return errors.Join(errs...)
}

// Adopt returns what another holder or systemd has left to this process. It returns nil
// if that is nothing.
func Adopt() (*Adopted, error) {
	var s holderState
	ok, err := takeState(holderEnv, &s)
	if err != nil {
		return nil, err
	}
	if !ok {
		if files := listenFiles(); len(files) > 0 {
			return &Adopted{Files: files}, nil
		}
		return nil, nil
	}
	a := &Adopted{Files: make(map[string]*os.File), Own: s.Own, worker: s.Worker, upgraded: s.Upgrade, toggled: s.Toggled, level: s.Level, tally: s.Tally, sys: realSystem()}
	for name, fd := range s.Files {
		unix.CloseOnExec(fd)
		a.Files[name] = os.NewFile(uintptr(fd), name)
	}
	for _, fd := range s.Own {
		unix.CloseOnExec(fd)
	}
	if s.Reply != 0 {
		// Whoever asked may be gone, which is no reason not to go on.
		line := string(control.Request{Version: control.Version, Verb: control.Upgrade}.Line())
		a.reply, _ = control.NewClient(os.NewFile(uintptr(s.Reply), "reply"), line)
	}
	if a.control, err = fdconn.New(os.NewFile(uintptr(s.Control), "control")); err != nil {
		return nil, err
	}
	return a, nil
}

// wait waits for the end of the worker, which need not be a child of this process. An
// error for want of descriptors or memory does not count as its end: another worker
// would be started beside it.
func (a *Adopted) wait() exit {
	var wait backoff
	fd, err := a.sys.pidfdOpen(a.worker)
	for ; err != nil && err != unix.ESRCH; fd, err = a.sys.pidfdOpen(a.worker) {
		a.sys.sleep(wait.next(minBackoff, maxBackoff))
	}
	if err != nil {
		return exit{text: fmt.Sprintf("it is gone: %v", err), status: -1}
	}
	defer unix.Close(fd)
	for n := 0; n == 0; {
		if n, err = a.sys.poll(fd); err != nil {
			n = 0
			if err != unix.EINTR {
				a.sys.sleep(wait.next(minBackoff, maxBackoff))
			}
		}
	}
	p, _ := os.FindProcess(a.worker) // on Unix it always succeeds
	state, err := p.Wait()
	if err != nil {
		return exit{text: "it ended, and was not our child", status: -1}
	}
	return exitOf(state)
}
