// SPDX-License-Identifier: Apache-2.0

package report

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"vprocfs/internal/count"
	"vprocfs/internal/daemon"
)

// Status says whether a daemon is well.
type Status struct {
	Well bool `json:"well"`
	// Problems are why it is not well.
	Problems []string      `json:"problems"`
	Daemon   daemon.Status `json:"daemon"`
	Worker   *daemon.Stats `json:"worker"` // nil if there is none
}

// nearlyFull is the part of a limit from which on its use is a problem.
const nearlyFull = 0.95

// Status asks the holder and the worker. It returns an error if the holder does not answer.
func (d *Daemon) Status() (*Status, error) {
	holder, err := d.Holder()
	if err != nil {
		return nil, err
	}
	s := &Status{Daemon: holder, Problems: []string{}}
	problem := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	h := &holder.Holder
	switch {
	case h.Worker == 0:
		problem("no worker is at work")
	case !h.Serving:
		problem("worker %d does not serve yet", h.Worker)
	}
	if h.Down != nil {
		problem("an outage since %s ago", age(time.Since(*h.Down)))
	}
	if h.Serving {
		worker, err := d.Stats()
		if err != nil {
			problem("worker %d does not answer: %v", h.Worker, err)
		} else {
			s.Worker = &worker
			problemsOf(&worker, problem)
		}
	}
	s.Well = len(s.Problems) == 0
	return s, nil
}

// uses are the limits of a worker, and how much of them is used.
func uses(w *daemon.Stats) []use {
	all := []use{
		{"descriptors", w.Process.OpenFiles, w.Process.MaxFiles},
		{"open files", w.Server.Handles, w.Server.MaxHandles},
		{"texts (KiB)", w.Server.Texts >> 10, w.Server.MaxTexts >> 10},
		{"pid namespaces", w.View.Namespaces, w.View.MaxNamespaces},
	}
	if t := w.Triggers; t != nil {
		all = append(all, use{"triggers", t.Live, t.Max})
	}
	return all
}

type use struct {
	name     string
	used, of int
}

func problemsOf(w *daemon.Stats, problem func(format string, args ...any)) {
	for _, u := range uses(w) {
		if float64(u.used) >= nearlyFull*float64(u.of) {
			problem("%s: %d of %d are used", u.name, u.used, u.of)
		}
	}
	if !w.View.On {
		problem("switched off: everybody is shown the host's files")
	}
}

// errNotWell makes the exit status 1. All is printed already.
var errNotWell = errors.New("")

// Err returns an error without text if s is not well.
func (s *Status) Err() error {
	if s.Well {
		return nil
	}
	return errNotWell
}

// Print prints s.
func (s *Status) Print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, Printable(fmt.Sprintf(format, args...)))
	}
	d, h := &s.Daemon, &s.Daemon.Holder
	state := "well"
	if !s.Well {
		state = "not well"
	}
	line("state", "%s", state)
	for _, p := range s.Problems {
		line("problem", "%s", p)
	}
	line("version", "%s", strings.TrimSpace(d.Version+" "+d.Commit))
	line("mount point", "%s, connection %d", d.MountPoint, d.Connection)
	line("holder", "%d, since %s ago", h.PID, age(time.Since(h.Began)))
	if h.Worker != 0 {
		line("worker", "%d, serving since %s ago", h.Worker, age(time.Since(h.Since)))
	}
	line("restarts", "%d", h.Restarts)
	for _, r := range h.LastRestarts {
		line("", "%s ago: worker %d: %s", age(time.Since(r.Time)), r.PID, r.Reason)
	}
	line("upgrades", "%d, and %d that failed", h.Upgrades, h.FailedUpgrades)
	if h.LastUpgrade != "" {
		line("", "the last failure: %s", h.LastUpgrade)
	}
	line("aborts", "%d, after which %d runs healed containers, %d of them not all", h.Renewals, d.Heals, d.FailedHeals)
	if c := d.Syscalls; c != nil {
		line("system calls", "of %d processes are answered, %d calls were late; listener path: %s", c.Listeners, c.Late, c.Socket)
	}
	line("log level", "%s", strings.ToLower(d.LogLevel))
	printWatch(line, d)
	if s.Worker != nil {
		printWorker(line, s.Worker)
	}
	for _, warning := range d.Warnings {
		line("warning", "%s", warning)
	}
	return w.Flush()
}

// printWatch prints what attaches containers.
func printWatch(line func(name, format string, args ...any), d *daemon.Status) {
	switch {
	case !d.Attach:
	case d.Watch == nil:
		line("attach", "no watcher is at work: containers that start have the kernel's files")
	default:
		w := d.Watch
		line("attach", "%d containers, told of by %s; %d late, %d wait, %d at work", w.Attached, w.Source, w.Late, w.Queue, w.Running)
		for _, why := range slices.Sorted(maps.Keys(w.Refused)) {
			line("", "%d not attached, or not wholly: %s", w.Refused[why], why)
		}
		if w.LastError != "" {
			line("", "the last error, %s ago: %s", age(time.Since(w.LastErrorAt)), w.LastError)
		}
	}
}

func printWorker(line func(name, format string, args ...any), w *daemon.Stats) {
	k := &w.Kernel
	pressure := "no pressure"
	if k.Pressure {
		pressure = "pressure"
	}
	fuse := "FUSE of an unknown level" // mounted by an older version of the daemon
	if k.FUSEMinor > 0 {
		fuse = fmt.Sprintf("FUSE 7.%d", k.FUSEMinor)
	}
	line("kernel", "%s, %s, init pids by %s, cgroups %s, %s", k.Release, fuse, k.InitPID, k.Cgroups, pressure)
	for name, value := range map[string]string{"lockdown": k.Lockdown, "apparmor": k.AppArmor} {
		if value != "" && value != "unconfined" && !strings.HasPrefix(value, "[none]") {
			line(name, "%s", value)
		}
	}
	line("memory", "%s, %.1f s of CPU time in %s", bytesText(w.Process.Resident), w.Process.CPU, age(seconds(w.Process.Uptime)))
	line("containers", "%d in %d pid namespaces, %d ended", w.View.Containers, w.View.Namespaces, w.View.Ended)
	for _, u := range uses(w) {
		line(u.name, "%d of %d", u.used, u.of)
	}
	// Those beyond the limit are closed: it is no problem to come to it.
	line("cgroup files", "%d of %d", w.View.OpenFiles, w.View.MaxFiles)
	r := &w.Server.Reads
	line("reads", "%d, half of them within %s, 99 %% within %s", r.Count(), quantile(r, 0.5), quantile(r, 0.99))
	line("requests", "%d slow (100 ms), %d blocked, %d waiting now", w.Server.Slow, w.Server.Blocked, w.Server.Waiting)
	if n := w.View.MaxRate; n > 0 {
		line("rate limit", "%d reads/s for each container, %d reads delayed, %d wait now", n, w.View.Delayed, w.View.Delaying)
	}
	for _, r := range w.Server.Refusals {
		if r.N > 0 {
			line("refused", "%s: %d (%s)", r.Reason, r.N, r.Errno)
		}
	}
	if t := w.Triggers; t != nil {
		for _, errno := range slices.Sorted(maps.Keys(t.Refused)) {
			line("refused", "pressure triggers: %d (%s)", t.Refused[errno], errno)
		}
	}
	for _, f := range w.View.Fallbacks {
		note := ""
		if f.Asked {
			note = " (no fault)"
		}
		line("fallbacks", "%s: %s: %d%s", f.File, f.Reason, f.N, note)
	}
	for _, f := range w.View.Failures {
		line("failures", "%s: %d for want of descriptors or memory", f.File, f.N)
	}
	if n := w.Server.Panics; n > 0 {
		line("panics", "%d, answered EIO", n)
	}
	for _, t := range w.Top {
		if t.PerSecond >= 1 {
			line("top", "%s: %.0f reads/s", NameOf(t.Group), t.PerSecond)
		}
	}
}

// quantile returns the bound of the bucket that the quantile q lies in.
func quantile(d *count.Durations, q float64) time.Duration {
	rank, n := uint64(q*float64(d.Count())), uint64(0)
	for i, b := range d.Buckets {
		if n += b; n > rank {
			return seconds(count.UpperBound(i)).Round(time.Microsecond)
		}
	}
	return 0
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// age returns a duration in its two largest units.
func age(d time.Duration) string {
	d = max(d, 0)
	day := 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// bytesText returns a number of bytes with a unit, as 1.5G.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1023.95 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if v >= 99.95 {
		return fmt.Sprintf("%.0f%c", v, units[i])
	}
	return fmt.Sprintf("%.1f%c", v, units[i])
}
