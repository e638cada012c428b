// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"vprocfs/procvirt"
)

// drawDetail draws one container.
func (m *model) drawDetail(width int) (s screen) {
	st := plain
	if m.stale() || m.gone {
		st = faint
	}
	for i, text := range m.detailed.Facts() {
		if i == 0 {
			s.add(title, "%s", text)
			continue
		}
		s.add(st, "%s", text)
	}
	if m.gone {
		s.add(alarm, "it is gone")
	}
	bars := width - 2
	if width == 0 {
		bars = maxHistory
	}
	graph, highest := sparkline(m.history[m.detail], bars, m.bars)
	s.add(st, "%.0f reads/s; the last %d samples, one in %s, at most %.0f:", m.detailed.PerSecond, len([]rune(graph)), m.interval, highest)
	s.add(st, "[%s]", graph)
	s.add(plain, "")
	for i, text := range m.fileLines() {
		if i == 0 {
			s.add(title, "%s", text)
			continue
		}
		s.add(st, "%s", text)
	}
	return s
}

// fileRow is one file of a container.
type fileRow struct {
	procvirt.FileReads
	perSecond float64 // -1: not known
	mean      time.Duration
}

// fileLines returns a table of the files, those that are read most first.
func (m *model) fileLines() []string {
	var rows []fileRow
	since, read := m.rates()
	if now := m.files[1]; now != nil {
		for _, f := range now.read {
			row := fileRow{FileReads: f, perSecond: -1}
			if since > 0 {
				n := read[f.File]
				row.perSecond = float64(n.N) / since.Seconds()
				row.mean = mean(n)
			}
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b fileRow) int {
		return cmp.Or(cmp.Compare(b.perSecond, a.perSecond), cmp.Compare(b.N, a.N), cmp.Compare(a.File, b.File))
	})
	lines := []string{fmt.Sprintf("%-24s %9s %9s %11s %9s %9s", "FILE", "READS/S", "LATENCY", "READS", "MEAN", "SLOWEST")}
	for _, r := range rows {
		perSecond, now := "-", "-"
		if r.perSecond >= 0 {
			perSecond = strconv.FormatFloat(r.perSecond, 'f', 0, 64)
		}
		if r.perSecond > 0 {
			now = short(r.mean)
		}
		lines = append(lines, fmt.Sprintf("%-24s %9s %9s %11d %9s %9s", r.File, perSecond, now, r.N, short(mean(r.FileReads)), short(duration(r.Slowest))))
	}
	return lines
}

// mean returns how long one read took.
func mean(f procvirt.FileReads) time.Duration {
	if f.N == 0 {
		return 0
	}
	return duration(f.Seconds / float64(f.N))
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// short returns a duration with three digits.
func short(d time.Duration) string {
	unit := time.Nanosecond
	for _, u := range []time.Duration{100 * time.Nanosecond, time.Microsecond, 10 * time.Microsecond, 100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond} {
		if d >= 100*u {
			unit = u
		}
	}
	return d.Round(unit).String()
}
