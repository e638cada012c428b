// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"vprocfs/internal/report"
	"vprocfs/procvirt"
)

// pressed is a key: a character, or one of the constants below.
type pressed rune

const (
	keyUp pressed = -1 - iota
	keyDown
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
	keyEnter
	keyEscape
	keyBackspace
	keyInterrupt // Ctrl-C
	keyErase     // Ctrl-U
)

// mode is what the keys are for.
type mode int

const (
	modeList   mode = iota
	modeFilter      // the filter is typed
	modeDetail      // of one container
	modeHelp
)

// model is what is shown. It does no I/O, and is not safe for concurrent use.
type model struct {
	options  report.ListOptions
	interval time.Duration
	bars     []rune // see sparkline

	last   *sample // nil before the first
	shown  *sample // the last one with containers, nil before the first
	before *sample // the one with a worker before that, nil if there is none
	failed time.Time
	// answered is the last status that there was.
	answered *report.Status
	// chosen are the containers of shown that the options ask for, in their order.
	chosen  []report.Container
	history history
	// notice is the last event, and noticed its time.
	notice  string
	noticed time.Time

	mode mode
	// cursor is the number of the line that is selected. selected is its container: nil if
	// the first line is selected, whichever that is.
	cursor   int
	selected *key
	offset   int // first line that is on the screen
	page     int // how many there were, when it was drawn last
	typed    string
	// detail is the container that modeDetail shows, detailed the last that is known of it,
	// and files what it had read at the last two samples.
	detail   key
	detailed report.Container
	gone     bool // it was not in the last sample
	files    [2]*files
	quit     bool
}

func newModel(o report.ListOptions, interval time.Duration, bars []rune) *model {
	return &model{options: o, interval: interval, bars: bars, history: history{}}
}

// wanted returns the container whose files are to be asked for, nil for none.
func (m *model) wanted() *key {
	if m.mode != modeDetail {
		return nil
	}
	return &m.detail
}

// add takes a sample in.
func (m *model) add(s *sample) {
	m.note(s)
	if s.err != nil && m.failed.IsZero() {
		m.failed = s.at
	} else if s.err == nil {
		m.failed = time.Time{}
	}
	m.last = s
	if !s.listed {
		return
	}
	m.before, m.shown = m.shown, s
	m.history.add(s.containers)
	m.choose()
	if m.mode == modeDetail {
		m.addFiles(s)
	}
}

// note makes a notice of what happened to the daemon since the last sample.
func (m *model) note(s *sample) {
	if s.status == nil {
		return
	}
	before := m.answered
	m.answered = s.status
	if before == nil {
		return
	}
	say := func(format string, args ...any) { m.notice, m.noticed = fmt.Sprintf(format, args...), s.at }
	was, is := &before.Daemon, &s.status.Daemon
	h := &is.Holder
	switch {
	case h.Upgrades > was.Holder.Upgrades:
		say("upgraded: version %s, worker %d", is.Version, h.Worker)
	case h.FailedUpgrades > was.Holder.FailedUpgrades:
		say("an upgrade failed: %s", h.LastUpgrade)
	case h.Restarts > was.Holder.Restarts && len(h.LastRestarts) > 0:
		r := h.LastRestarts[len(h.LastRestarts)-1]
		say("worker %d ended: %s", r.PID, r.Reason)
	case h.PID != was.Holder.PID:
		say("the holder is another process: %d, was %d", h.PID, was.Holder.PID)
	case h.Renewals > was.Holder.Renewals:
		say("the connection was aborted from outside, and made anew")
	case m.last.status == nil:
		say("the daemon answers again")
	}
}

// choose filters and sorts anew, and keeps the selected container selected.
func (m *model) choose() {
	if m.shown == nil {
		return
	}
	m.chosen = m.options.Choose(slices.Clone(m.shown.containers))
	if m.selected == nil {
		m.cursor = 0
		return
	}
	if i := slices.IndexFunc(m.chosen, func(c report.Container) bool { return keyOf(&c) == *m.selected }); i >= 0 {
		m.cursor = i
		return
	}
	m.move(0) // it is gone: what is in its place is selected
}

// move selects the line that is so many lines further.
func (m *model) move(lines int) {
	m.cursor = max(min(m.cursor+lines, len(m.chosen)-1), 0)
	m.selected = nil
	if m.cursor > 0 {
		k := keyOf(&m.chosen[m.cursor])
		m.selected = &k
	}
}

// addFiles takes in what is known of the container of modeDetail.
func (m *model) addFiles(s *sample) {
	i := slices.IndexFunc(s.containers, func(c report.Container) bool { return keyOf(&c) == m.detail })
	if m.gone = i < 0; m.gone {
		return
	}
	m.detailed = s.containers[i]
	if s.files != nil && s.files.of == m.detail {
		m.files[0], m.files[1] = m.files[1], s.files
	}
}

// open shows the detail of the selected container.
func (m *model) open() {
	if m.cursor >= len(m.chosen) {
		return
	}
	m.detailed = m.chosen[m.cursor]
	m.detail, m.mode, m.gone, m.files = keyOf(&m.detailed), modeDetail, false, [2]*files{}
}

// press takes a key.
func (m *model) press(k pressed) {
	switch {
	case k == keyInterrupt:
		m.quit = true
	case m.mode == modeFilter:
		m.typeFilter(k)
	case k == 'q':
		m.quit = true
	case m.mode == modeHelp:
		m.mode = modeList
	case m.mode == modeDetail:
		if k == keyEscape || k == keyEnter || k == keyBackspace {
			m.mode = modeList
		}
	default:
		m.pressInList(k)
	}
}

func (m *model) pressInList(k pressed) {
	switch k {
	case keyUp, 'k':
		m.move(-1)
	case keyDown, 'j':
		m.move(1)
	case keyPageUp:
		m.move(-max(m.page-1, 1))
	case keyPageDown, ' ':
		m.move(max(m.page-1, 1))
	case keyHome, 'g':
		m.move(-len(m.chosen))
	case keyEnd, 'G':
		m.move(len(m.chosen))
	case keyEnter:
		m.open()
	case '/':
		m.mode, m.typed = modeFilter, m.options.Filter
	case keyEscape:
		m.options.Filter = ""
		m.choose()
	case 'h', '?':
		m.mode = modeHelp
	case 'r':
		m.options.Reverse = !m.options.Reverse
		m.choose()
	case '<', ',':
		m.sortBeside(-1)
	case '>', '.':
		m.sortBeside(1)
	default:
		if name := sortKeys()[k]; name != "" {
			m.sortBy(name)
		}
	}
}

// sortKeys returns the columns that have a key to sort by.
func sortKeys() map[pressed]string {
	return map[pressed]string{
		'N': "name", 'I': "init", 'C': "cpus", 'M': "memory", 'L': "load", 'U': "uptime",
		'R': "reads/s", 'T': "reads", 'S': "slow", 'F': "files", 'B': "fallbacks", 'D': "delayed", 'P': "policy",
	}
}

func (m *model) sortBy(column string) {
	m.options.Sort, m.options.Reverse = column, false
	m.choose()
}

// sortBeside sorts by the column that is so many further, from the last to the first.
func (m *model) sortBeside(columns int) {
	names := report.SortNames()
	i := slices.Index(names, strings.ToLower(m.options.Sort)) + columns
	m.sortBy(names[(i+len(names))%len(names)])
}

// typeFilter takes a key while the filter is typed. The list follows each of them.
func (m *model) typeFilter(k pressed) {
	switch {
	case k == keyEnter:
		m.mode = modeList
		return
	case k == keyEscape: // the filter that was there before
		m.mode, m.options.Filter = modeList, m.typed
	case k == keyErase:
		m.options.Filter = ""
	case k == keyBackspace:
		if r := []rune(m.options.Filter); len(r) > 0 {
			m.options.Filter = string(r[:len(r)-1])
		}
	case k >= ' ':
		m.options.Filter += string(rune(k))
	}
	m.choose()
}

// rates returns what the container of modeDetail has read since the last sample, by file.
// It is empty if there is no such sample, or another worker served it.
func (m *model) rates() (since time.Duration, read map[string]procvirt.FileReads) {
	old, now := m.files[0], m.files[1]
	if old == nil || now == nil || old.worker != now.worker {
		return 0, nil
	}
	read = map[string]procvirt.FileReads{}
	for _, f := range now.read {
		read[f.File] = f
	}
	for _, f := range old.read {
		n := read[f.File]
		read[f.File] = procvirt.FileReads{File: f.File, N: n.N - f.N, Seconds: n.Seconds - f.Seconds}
	}
	return now.at.Sub(old.at), read
}
