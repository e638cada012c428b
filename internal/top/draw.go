// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"strings"
	"time"

	"vprocfs/internal/count"
	"vprocfs/internal/report"
)

// style is how a line is set off from others.
type style int

const (
	plain style = iota
	title
	selected
	alarm // something is wrong
	faint // not of now
)

// line is a line of the screen. Its text is printable.
type line struct {
	text  string
	style style
}

// screen is the lines of a screen under construction.
type screen []line

// add adds a line. Whatever it is made of, no control character is left in it.
func (s *screen) add(st style, format string, args ...any) {
	*s = append(*s, line{report.Printable(fmt.Sprintf(format, args...)), st})
}

// late is after how many intervals without an answer the screen says so.
const late = 3

// draw returns the lines of a screen of this size.
func (m *model) draw(width, height int, now time.Time) []line {
	var s screen
	m.head(&s, now)
	room := max(height-len(s)-1, 1) // the last line is for the keys
	switch m.mode {
	case modeHelp:
		s = append(s, helpLines()...)
	case modeDetail:
		s = append(s, m.drawDetail(width)...)
	default:
		s = append(s, m.list(width, room)...)
	}
	for len(s) < height-1 {
		s.add(plain, "")
	}
	s = s[:max(height-1, 0)]
	m.foot(&s)
	return s[:min(len(s), height)]
}

// head draws what is known of the daemon: three lines, and one for what happened last.
func (m *model) head(s *screen, now time.Time) {
	clock := now.Format(time.TimeOnly)
	if m.last == nil {
		s.add(plain, "vprocfs top, %s: the daemon is asked", clock)
		return
	}
	switch status := m.last.status; {
	case status == nil:
		s.add(alarm, "vprocfs top, %s: no answer since %s: %v", clock, m.failed.Format(time.TimeOnly), m.last.err)
	case now.Sub(m.last.at) > late*m.interval:
		s.add(alarm, "vprocfs top, %s: no answer since %s", clock, m.last.at.Format(time.TimeOnly))
	case len(status.Problems) > 0:
		s.add(alarm, "vprocfs top, %s: not well: %s", clock, strings.Join(status.Problems, "; "))
	case m.last.err != nil:
		s.add(alarm, "vprocfs top, %s: %v", clock, m.last.err)
	default:
		s.add(plain, "vprocfs top, %s: well, %s", clock, status.Daemon.MountPoint)
	}
	if status := m.answered; status != nil {
		s.add(plain, "%s", status.Processes(now))
	} else {
		s.add(plain, "")
	}
	s.add(plain, "%s", m.summary())
	if m.notice != "" {
		s.add(alarm, "%s: %s", m.noticed.Format(time.TimeOnly), m.notice)
	} else {
		s.add(plain, "")
	}
}

// summary returns what the worker does, of the last sample that it has answered.
func (m *model) summary() string {
	if m.shown == nil {
		return ""
	}
	now := m.shown.status
	reads, since := now.Worker.Server.Reads, time.Duration(now.Worker.Process.Uptime*float64(time.Second))
	if b := m.before; b != nil && b.status.Worker.Process.PID == now.Worker.Process.PID {
		old := b.status.Worker.Server.Reads
		reads = count.Durations{Buckets: append([]uint64(nil), reads.Buckets...)}
		for i := range min(len(reads.Buckets), len(old.Buckets)) {
			reads.Buckets[i] -= min(old.Buckets[i], reads.Buckets[i])
		}
		since = m.shown.at.Sub(b.at)
	}
	return now.Summary(&reads, since)
}

// stale reports whether what is listed is not of the last sample.
func (m *model) stale() bool { return m.shown != m.last }

// list draws the containers.
func (m *model) list(width, room int) (s screen) {
	lines := report.Table(m.chosen, width)
	m.page = max(room-1, 1)
	m.offset = max(min(m.offset, m.cursor, len(m.chosen)-m.page), m.cursor-m.page+1, 0)
	s.add(title, "%s", lines[0])
	for i := m.offset; i < min(m.offset+m.page, len(m.chosen)); i++ {
		st := plain
		switch {
		case i == m.cursor:
			st = selected
		case m.stale():
			st = faint
		}
		s.add(st, "%s", lines[i+1])
	}
	return s
}

// foot draws the line of keys, or the one that is typed in.
func (m *model) foot(s *screen) {
	order := "by " + m.options.Sort
	if m.options.Reverse {
		order += " reversed"
	}
	filter := ""
	if m.options.Filter != "" {
		filter = fmt.Sprintf(", filter %q", m.options.Filter)
	}
	of := 0
	if m.shown != nil {
		of = len(m.shown.containers)
	}
	switch m.mode {
	case modeFilter:
		s.add(title, "filter: %s_   (Enter keeps it, Esc takes the former one)", m.options.Filter)
	case modeDetail:
		s.add(title, "Esc back to the list  q quit")
	case modeHelp:
		s.add(title, "any key: back to the list  q quit")
	default:
		s.add(title, "%d of %d, %s%s.  q quit  / filter  < > sort  Enter files  h help", len(m.chosen), of, order, filter)
	}
}

func helpLines() (s screen) {
	for _, text := range []string{
		"",
		"  up down PgUp PgDn Home End   select a container (also k j g G)",
		"  Enter                        its files, their reads per second and times",
		"  /                            filter by a part of the name or control group",
		"  Esc                          no filter; from a container back to the list",
		"  < >                          sort by the column to the left or right",
		"  N I C M L U                  sort by name, init, CPUs, memory, load, uptime",
		"  R T S F B D P                by reads/s, reads, slow, files, fallbacks,",
		"                               delayed, policy",
		"  r                            the other way round",
		"  q, Ctrl-C                    quit",
		"",
		"  READS are contents that were made for a container, READS/S those of the last",
		"  one to two seconds, SLOW those that took 100 ms or longer, FALLBACKS those",
		"  that were the host's, and FILES what the daemon has open for the outermost",
		"  container.",
	} {
		s.add(plain, "%s", text)
	}
	return s
}
