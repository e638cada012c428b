// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// event is a process that may be, or may soon be, the init of a container.
type event struct {
	pid int
	// follow is true if no other event tells when the container is ready: its mounts
	// are to be watched.
	follow bool
	// later is true if the process cannot be a container yet, and another event most
	// likely comes when it is.
	later bool
}

// source reports events. It is for one goroutine.
type source interface {
	// name says what is watched, for the log.
	name() string
	// fds are the descriptors that are readable (EPOLLIN) if there are events.
	fds() []int
	// read passes the events that have happened to each, and does not wait. It
	// reports whether some were lost. After an error the source is useless.
	read(each func(event)) (lost bool, err error)
	// stale reports whether the source must be opened again.
	stale() bool
	close()
}

// scanEvery is how often /proc is searched if there is no other source.
const scanEvery = 5 * time.Second

// opener opens a source.
type opener struct {
	what string
	open func() (source, error)
}

// openers returns all sources, the best first.
func openers() []opener {
	return []opener{
		// It reports every process that calls pivot_root(2).
		{"kretprobe", func() (source, error) {
			pivot, err := kretprobe()
			if err != nil {
				return nil, err
			}
			events := []*perfEvent{pivot}
			// nspawn calls no pivot_root.
			if tasks, err := newTasks(); err == nil {
				tasks.follow, tasks.later = false, true // most call it
				events = append(events, tasks)
			}
			return newPerfSource(events...)
		}},
		// It names the processes that runtimes make, before these mount anything.
		{"task_newtask", func() (source, error) {
			tasks, err := newTasks()
			if err != nil {
				return nil, err
			}
			return newPerfSource(tasks)
		}},
		// The others are late: the program has begun to run.
		{"sched_process_exec", func() (source, error) {
			execs, err := newExecs()
			if err != nil {
				return nil, err
			}
			return newPerfSource(execs)
		}},
		{"proc connector", func() (source, error) { return newConnector() }},
	}
}

// openSource opens the best source that works. It returns nil if none does: then
// only a scan finds containers.
func openSource(all []opener, log *slog.Logger) source {
	var failed error
	for _, o := range all {
		s, err := o.open()
		if err == nil {
			log.Info("watching for containers that start", "source", s.name())
			if failed != nil {
				log.Debug("better sources do not work", "err", failed)
			}
			return s
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", o.what, err))
	}
	log.Warn("containers are attached late: no event source works, /proc is searched", "every", scanEvery, "err", failed)
	return nil
}
