package supervise

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// event is one thing that happened to a process, or the end of a probe.
type event struct {
	from    *process
	message message
	gone    bool // the process has ended
	how     exit
	probe   bool
	timeout bool // it has not begun in time
	settled bool // it has worked for goodAfter
	err     error
}

// exit is how a process ended.
type exit struct {
	text    string
	status  int  // -1 where a signal ended it, or it is not known
	crashed bool // not by a SIGKILL, and not by our wish
}

// process is a worker.
type process struct {
	pid     int
	handle  *os.Process
	toggled bool // what it was told of Holder.toggled
	control *control
	ready   bool // a candidate that waits for its turn
	serving time.Time
	killed  string // why we have killed it
	timer   *time.Timer
}

// spawn starts a worker.
func (h *Holder) spawn(path string, candidate bool) (*process, error) {
	ours, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// A candidate hears of a crash when it begins. Another worker does, too, but should
	// this process be gone by then it has to know.
	s := workerState{Version: formatVersion, Files: make(map[string]int), Control: 3, Crashed: h.crashed && !candidate, Candidate: candidate, Toggled: h.toggled,
		Unmanaged: !isService()}
	files := []*os.File{theirs}
	for name, f := range h.files {
		s.Files[name] = 3 + len(files)
		files = append(files, f)
	}
	cmd, err := command(path, workerEnv, s, files)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", path, err), ours.conn.Close())
	}
	p := &process{pid: cmd.Process.Pid, handle: cmd.Process, control: ours, toggled: h.toggled}
	h.watch(p, func() exit { return exitOf(cmd.Wait(), cmd.ProcessState) })
	return p, nil
}

// watch has the events of p sent, with its end last.
func (h *Holder) watch(p *process, wait func() exit) {
	p.timer = time.AfterFunc(startTimeout, func() { h.events <- event{from: p, timeout: true} })
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		for {
			m, err := p.control.receive()
			if err != nil {
				return
			}
			h.events <- event{from: p, message: m}
		}
	}()
	go func() {
		how := wait()
		<-listened // what it has said before it ended
		p.timer.Stop()
		h.events <- event{from: p, gone: true, how: how}
	}()
}

func exitOf(err error, s *os.ProcessState) exit {
	if s == nil {
		return exit{text: fmt.Sprint(err), status: -1}
	}
	e := exit{text: s.String(), status: s.ExitCode(), crashed: true}
	if ws, ok := s.Sys().(unix.WaitStatus); ok && ws.Signaled() && ws.Signal() == unix.SIGKILL {
		e.crashed = false
	}
	return e
}

func reason(p *process, how exit) string {
	if p.killed != "" {
		return p.killed
	}
	return how.text
}

// kill ends a worker that must not go on.
func (h *Holder) kill(p *process, why string) {
	if p.killed == "" {
		p.killed = why
	}
	if err := p.handle.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		h.cfg.Log.Error("worker not killed", "pid", p.pid, "err", err)
	}
}
