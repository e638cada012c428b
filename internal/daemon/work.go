// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"vprocfs/fs"
	"vprocfs/fs/journal"
	"vprocfs/internal/logqueue"
	"vprocfs/internal/shm"
	"vprocfs/internal/supervise"
	"vprocfs/procvirt"
)

// workerPing is how long the reader may take to come to a ping.
const workerPing = 5 * time.Second

// work serves the connection that the holder has, in the worker.
func work(o Options, dir string, w *supervise.Worker) error {
	output := logqueue.New(w.Log)
	defer output.Flush(logPatience)
	log := o.Log.NewLogger(output, os.Getenv("JOURNAL_STREAM") != "")
	setLevel := func(level string) {
		if err := o.Log.SetLevel(level); err != nil {
			log.Error("the holder asks for another log level", "err", err)
		}
	}
	// What is read warm makes no garbage, so that collecting more often costs nothing
	// but while containers are new: with 1,000 of them RSS is 36 MB at most, where
	// Go's default of 100 makes 45 of it.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	src, err := newSource(o.View, log)
	if err != nil {
		return err
	}
	if w.Candidate {
		if err := selfTest(o.View, w.Files[fileJournal]); err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
	}
	if err := w.Ready(); err != nil {
		return err
	}
	if w.Level != "" {
		setLevel(w.Level)
	}
	if w.Toggled {
		src.registry.Toggle()
	}
	dev, err := journal.Dev(w.Files[fileJournal])
	if err != nil {
		return err
	}
	kept, conn, err := fs.OpenJournal(w.Files[fileJournal], w.Files[fileFuse])
	if err != nil {
		return err
	}
	err = src.registry.Persist(func(name string, f shm.Format) (*shm.Table, error) {
		return keptTable(w, log, fileTable+name, f)
	})
	if err != nil {
		return err
	}
	saved, err := keptTable(w, log, fileTriggers, procvirt.TriggerFormat())
	if err != nil {
		return err
	}
	so := src.serverOptions(conn, saved)
	so.Journal, so.Crashed, so.IDMap = kept, w.Crashed, o.Mount.IDMap
	so.Pins = fs.NewPins(newOpener().open, func(fd int) { w.Keep(filePins, fd) })
	server := fs.NewServer(conn, src, so)
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	pinner := newPinner(o, dir, w.Files, dev, server, so.Pins, log)
	pinner.start()
	o.startDebug(log)
	calls, err := newCallServer(w, src, log)
	if err != nil {
		log.Error("no system calls are answered: the kernel carries them out", "err", err)
	}
	stop := make(chan struct{})
	answers := newAnswers(src, server, output, o.Log.limit, log)
	answers.calls = calls
	w.Serving(log, supervise.Orders{
		Stop:   func() { close(stop) },
		Ping:   func() error { return ping(server) },
		Toggle: func() { log.Info("virtualisation switched", "on", src.registry.Toggle()) },
		Level:  setLevel,
		Ask:    answers.answer,
		Offer:  calls.add,
	})
	select {
	case err := <-served:
		logStats(log, src, server)
		if isMounted(pinner.path, dev) {
			w.Aborted(err) // the holder logs it
			return nil
		}
		log.Info("unmounted by another process")
		w.Over(err)
	case <-stop:
		logStats(log, src, server)
	}
	return nil
}

// ping returns an error if the server does not answer. One whose files nobody uses does.
func ping(s *fs.Server) error {
	if err := s.Ping(workerPing); errors.Is(err, fs.ErrNoPong) {
		return err
	}
	return nil
}

// keptTable is a table that the holder has, or gets. What cannot be used is made
// anew: without it counters go back, but without a worker there are none at all.
func keptTable(w *supervise.Worker, log *slog.Logger, name string, f shm.Format) (*shm.Table, error) {
	if fd, ok := w.Files[name]; ok {
		t, err := shm.Open(fd, f)
		if err == nil {
			return t, nil
		}
		log.Error("what a former worker has left cannot be used", "name", name, "err", err)
	}
	t, err := shm.New(name, f)
	if err != nil {
		return nil, err
	}
	w.Keep(name, t.FD())
	return t, nil
}

// selfTest makes every file, as this process sees it, with a source of its own: the
// worker that is to be replaced is at work.
func selfTest(o ViewOptions, kept int) error {
	if _, err := journal.Dev(kept); err != nil {
		return err
	}
	src, err := newSource(o, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer src.Close()
	for _, f := range src.registry.Files() {
		n := fs.NodeID(f.Node)
		_, err := src.Append(nil, n, fs.NewTurn(fs.Caller{PID: os.Getpid()}))
		if err != nil {
			return fmt.Errorf("file %d: %w", n, err)
		}
	}
	return nil
}

// logStats logs how often callers got the host's file, and why, and how often EIO because
// of a panic.
func logStats(log *slog.Logger, src *source, server *fs.Server) {
	log.Info("fallbacks to the host's file", "counts", src.registry.Stats())
	if n := server.Panics(); n > 0 {
		log.Error("panics while content was made", "count", n)
	}
}
