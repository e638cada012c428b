// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"vprocfs/internal/fdconn"
)

// process is a worker or a candidate.
type process struct {
	handle  *os.Process
	control *fdconn.Conn
}

// exit is how a process ended.
type exit struct {
	text    string
	status  int  // -1 if a signal ended it, or it is not known
	crashed bool // not by a SIGKILL
}

// spawn starts a process.
func (h *Holder) spawn(a spawn) (pid int, err error) {
	ours, theirs, err := h.sys.pair()
	if err != nil {
		return 0, err
	}
	defer theirs.Close()
	s := workerState{Files: make(map[string]int), Control: 3, Log: 4, Candidate: a.candidate, Unmanaged: !isService()}
	files := []*os.File{theirs, os.Stderr}
	for name, f := range h.files {
		s.Files[name] = 3 + len(files)
		files = append(files, f)
	}
	path := "/proc/self/exe"
	if a.candidate {
		path = h.cfg.Program
	}
	cmd, err := command(path, workerEnv, s, files, h.stderr())
	if err == nil {
		err = h.sys.start(cmd)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("start %s: %w", path, err), ours.Close())
	}
	h.watch(a.id, &process{cmd.Process, ours}, func() exit {
		if err := cmd.Wait(); cmd.ProcessState == nil {
			return exit{text: err.Error(), status: -1}
		}
		return exitOf(cmd.ProcessState)
	})
	return cmd.Process.Pid, nil
}

// watch has the messages of p sent to the machine, and its end last.
func (h *Holder) watch(id procID, p *process, wait func() exit) {
	h.procs[id] = p
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		for {
			m, err := receive(p.control)
			if err != nil {
				h.events <- hungUp{id}
				return
			}
			h.events <- received{id, m}
		}
	}()
	go func() {
		how := wait()
		<-listened // what it sent before it ended
		h.events <- ended{id, how}
	}()
}

// forget gives up what is held of a process that is dead.
func (h *Holder) forget(id procID) {
	p := h.procs[id]
	if p == nil {
		return
	}
	delete(h.procs, id)
	_ = p.control.Close()
	_ = p.handle.Release()
}

func exitOf(s *os.ProcessState) exit {
	ws := s.Sys().(syscall.WaitStatus)
	return exit{text: s.String(), status: s.ExitCode(), crashed: !ws.Signaled() || ws.Signal() != unix.SIGKILL}
}

// kill sends SIGKILL to a process. Its end is an event, if it comes.
func (h *Holder) kill(id procID) {
	p := h.procs[id]
	if p == nil {
		return // it could not be started
	}
	if err := p.handle.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		h.cfg.Log.Error("worker not killed", "pid", p.handle.Pid, "err", err)
	}
}
