// SPDX-License-Identifier: Apache-2.0

// Package top shows the containers of a daemon live, in a terminal or as text.
package top

import (
	"time"

	"vprocfs/internal/report"
	"vprocfs/procvirt"
)

// Source is the daemon that is asked.
type Source interface {
	Status() (*report.Status, error)
	Containers() ([]report.Container, error)
	Files(ns uint64) ([]procvirt.GroupReads, error)
}

// key distinguishes a container from the others.
type key struct {
	ns    uint64 // of its pid namespace
	group string
}

func keyOf(c *report.Container) key { return key{c.Namespace, c.Group} }

// sample is what a daemon has answered at a time.
type sample struct {
	at     time.Time
	status *report.Status // nil: the daemon does not answer
	// listed says that the worker has answered too, with all its containers.
	listed     bool
	containers []report.Container
	// files are those of one container, nil if no container was asked for.
	files *files
	err   error // why something is missing
}

// files is what one container has read up to a time, since the worker with this pid began.
type files struct {
	of     key
	at     time.Time
	worker int
	read   []procvirt.FileReads
}

// take asks the daemon. If of is not nil, that container's files are asked for too.
func take(s Source, of *key, now func() time.Time) *sample {
	a := &sample{}
	a.status, a.err = s.Status()
	if a.err == nil && a.status.Worker != nil {
		a.containers, a.err = s.Containers()
		a.listed = a.err == nil
	}
	a.at = now()
	if a.listed && of != nil {
		a.files = takeFiles(s, *of)
		if a.files != nil {
			a.files.at, a.files.worker = now(), a.status.Worker.Process.PID
		}
	}
	return a
}

// takeFiles returns nil if the daemon does not know the container.
func takeFiles(s Source, of key) *files {
	groups, err := s.Files(of.ns)
	if err != nil {
		return nil
	}
	for _, g := range groups {
		if g.Group == of.group {
			return &files{of: of, read: g.Files}
		}
	}
	return nil
}
