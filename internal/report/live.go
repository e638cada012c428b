// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"vprocfs/internal/control"
	"vprocfs/internal/count"
	"vprocfs/procvirt"
)

// Files returns which files the containers in the pid namespace ns have read.
func (d *Daemon) Files(ns uint64) ([]procvirt.GroupReads, error) {
	return ask[[]procvirt.GroupReads](d, control.Files, strconv.FormatUint(ns, 10))
}

// Choose returns the containers that o asks for, in its order. It changes all.
func (o *ListOptions) Choose(all []Container) []Container { return o.choose(all) }

// Table returns a title and a line for each container, which are width characters wide at
// most; 0 is as wide as they are.
func Table(all []Container, width int) []string { return table(all, width) }

// SortNames returns the columns that a list can be sorted by, in their order.
func SortNames() (names []string) {
	for _, c := range columns() {
		names = append(names, strings.ToLower(c.title))
	}
	return names
}

// Summary returns what a worker is doing in one line: reads are its READ requests
// since the last look, which was so long ago, or since it began.
func (s *Status) Summary(reads *count.Durations, since time.Duration) string {
	w := s.Worker
	if w == nil {
		return "no worker answers"
	}
	fallbacks := uint64(0)
	for _, f := range w.View.Fallbacks {
		if !f.Asked {
			fallbacks += f.N
		}
	}
	return fmt.Sprintf("%d containers, %.0f requests/s, 50 %% in %s, 99 %% in %s, %d slow, %d fallbacks",
		w.View.Containers, float64(reads.Count())/max(since.Seconds(), 0.001), quantile(reads, 0.5), quantile(reads, 0.99), w.Server.Slow, fallbacks)
}

// Processes returns who serves, and for how long, and what became of those before, in one
// line.
func (s *Status) Processes(now time.Time) string {
	h := &s.Daemon.Holder
	worker := "no worker"
	if h.Worker != 0 {
		worker = fmt.Sprintf("worker %d", h.Worker)
		if h.Serving {
			worker += " (" + age(now.Sub(h.Since)) + ")"
		}
	}
	return Printable(fmt.Sprintf("%s, holder %d (%s), %d restarts, %d upgrades, version %s",
		worker, h.PID, age(now.Sub(h.Began)), h.Restarts, h.Upgrades, s.Daemon.Version))
}

// Facts returns what is known of a container beside its files, a line each.
func (c *Container) Facts() []string {
	known := c.Memory > 0
	lines := []string{
		c.Name,
		c.Group,
		fmt.Sprintf("init %d, pid namespace %d, up %s, load %s",
			c.Init, c.Namespace, orDash(c.Uptime > 0, age(seconds(c.Uptime))), orDash(c.Load != "", c.Load)),
		fmt.Sprintf("CPUs %s, memory %s, available %s, policy %s",
			orDash(c.CPUs > 0, strconv.Itoa(c.CPUs)), orDash(known, bytesText(c.Memory)), orDash(known, bytesText(c.MemoryAvailable)), policyText(c)),
		fmt.Sprintf("%d reads, %d slow, %d fallbacks, %d open files", c.Reads, c.Slow, c.Fallbacks, c.OpenFiles),
	}
	for i := range lines {
		lines[i] = Printable(lines[i])
	}
	return lines
}
