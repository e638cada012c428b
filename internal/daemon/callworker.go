// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/internal/seccomp"
	"vprocfs/internal/supervise"
	"vprocfs/internal/syscalls"
)

// AnswerVerb is the hidden verb that runs WriteAnswers in a process of its own.
const AnswerVerb = "write-answers"

// Descriptors of WriteAnswers.
const (
	jobsFD = 3 + iota
	tableFD
)

// callServer answers system calls in a worker. A nil callServer answers none.
type callServer struct {
	worker *supervise.Worker
	server *syscalls.Server
	log    *slog.Logger
}

// newCallServer returns the server of the listeners that the worker has. It returns nil if
// the holder has no table of calls.
func newCallServer(w *supervise.Worker, src *source, log *slog.Logger) (*callServer, error) {
	if _, ok := w.Files[fileCalls]; !ok {
		return nil, nil
	}
	fd, err := w.File(fileCalls)
	if err != nil {
		return nil, err
	}
	table, err := syscalls.OpenTable(fd)
	if err != nil {
		return nil, err
	}
	s := &callServer{worker: w, log: log}
	s.server = syscalls.NewServer(syscalls.ServerConfig{
		View: syscalls.NewView(src.registry), Table: table, Start: startWriter, Log: log,
		Drop: func(n syscalls.Name) { w.Drop(n.String()) },
	})
	var names []string
	for name := range w.Files {
		if strings.HasPrefix(name, syscalls.NamePrefix) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		s.add(name)
	}
	return s, nil
}

// add serves the listener of that name.
func (s *callServer) add(name string) {
	if s == nil {
		return
	}
	n, ok := syscalls.ParseName(name)
	if !ok {
		return
	}
	fd, err := s.worker.File(name)
	if err != nil {
		s.log.Error("a listener of system calls cannot be used", "name", name, "err", err)
		return
	}
	s.server.Add(n, fd)
}

// stats returns how often each call had each outcome.
func (s *callServer) stats() map[string]uint64 {
	if s == nil {
		return nil
	}
	return s.server.Stats()
}

// startWriter is a syscalls.StartFunc.
func startWriter(conn, table *os.File, ended func()) error {
	cmd := exec.Command("/proc/self/exe", AnswerVerb, strconv.Itoa(jobsFD))
	cmd.Args[0] = "vprocfs"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{conn, table}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", AnswerVerb, err)
	}
	go func() {
		_ = cmd.Wait() // it may never end: nobody waits for ended
		ended()
	}()
	return nil
}

// WriteAnswers is the process that writes the answers of a worker. It ends with its socket.
func WriteAnswers() error {
	if err := hideProcess(); err != nil {
		return err
	}
	return syscalls.RunWriter(jobsFD, tableFD)
}

// AnswerBy returns a function that hands the listener of a seccomp filter to the daemon at
// dir. It returns an error if that answers no system calls.
func AnswerBy(dir string, log *slog.Logger) (func(listener int), error) {
	path, err := Resolve(dir)
	if err != nil {
		return nil, err
	}
	socket := control.SeccompPath(path)
	if err := seccomp.Listens(socket); err != nil {
		return nil, fmt.Errorf("the daemon at %s must run with --syscalls: %w", dir, err)
	}
	return func(listener int) {
		defer unix.Close(listener)
		id := fmt.Sprintf("run-%d", os.Getpid())
		if err := seccomp.SendOCI(socket, seccomp.Process{Container: id, PID: os.Getpid(), Init: os.Getpid()}, listener); err != nil {
			log.Error("system calls are not answered", "err", err)
		}
	}, nil
}
