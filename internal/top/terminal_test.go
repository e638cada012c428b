// SPDX-License-Identifier: Apache-2.0

package top

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/gdamore/tcell/v2"

	"vprocfs/procvirt"
)

// newScreen returns a terminal that is none.
func newScreen(t *testing.T, width, height int) tcell.SimulationScreen {
	t.Helper()
	s := tcell.NewSimulationScreen("UTF-8")
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Fini)
	s.SetSize(width, height)
	return s
}

// TestTheScreenIsWhatIsDrawn, and is blank where the list became shorter. Wide characters take
// two columns, and a name nothing beyond its line.
func TestTheScreenIsWhatIsDrawn(t *testing.T) {
	s := newScreen(t, 80, 24)
	l := newLooks(30)
	l.containers[29].Name, l.containers[28].Name = "名前"+strings.Repeat("x", 300), hostile
	text := func() string {
		show(s, l.model)
		cells, width, height := s.GetContents()
		var b strings.Builder
		for i, c := range cells[:width*height] {
			if i > 0 && i%width == 0 {
				b.WriteByte('\n')
			}
			for _, r := range c.Runes {
				if !unicode.IsPrint(r) {
					t.Errorf("cell %d: %q", i, c.Runes)
				}
				b.WriteRune(r)
			}
		}
		return b.String()
	}
	l.look()
	lines := strings.Split(text(), "\n")
	if !strings.HasPrefix(lines[5], "名") || !strings.Contains(lines[6], "evil?[2J") || !strings.Contains(lines[23], "30 of 30") || !strings.Contains(lines[20], "/group/14") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	l.enter("//group/14")
	lines = strings.Split(text(), "\n")
	if !strings.HasPrefix(lines[5], "/group/14 ") || strings.TrimSpace(strings.Join(lines[6:23], "")) != "" {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}

// TestADetailIsAskedForAtOnce, and not when the next look would be.
func TestADetailIsAskedForAtOnce(t *testing.T) {
	screen := newScreen(t, 80, 24)
	l := newLooks(3)
	l.groups = []procvirt.GroupReads{{Group: "/group/2", Files: []procvirt.FileReads{{File: "uptime", N: 1}}}}
	l.interval = time.Hour
	u := &loop{source: l.fakeDaemon, model: l.model, answers: make(chan *sample, 1), timer: time.NewTimer(0)}
	look := func() {
		<-u.timer.C
		u.ask()
		u.ask() // nothing: one is under way
		u.take(<-u.answers)
	}
	look()
	u.handle(screen, tcell.NewEventKey(tcell.KeyEnter, 0, tcell.ModNone))
	look()
	if l.mode != modeDetail || l.model.files[1] == nil || len(l.asked) != 1 {
		t.Errorf("mode %d, files %v, asked %v", l.mode, l.model.files, l.asked)
	}
	// It is opened while an answer without it is waited for.
	u.handle(screen, tcell.NewEventKey(tcell.KeyEscape, 0, tcell.ModNone))
	u.timer.Reset(0)
	<-u.timer.C
	u.ask()
	u.handle(screen, tcell.NewEventKey(tcell.KeyEnter, 0, tcell.ModNone))
	u.take(<-u.answers)
	look()
	if l.model.files[1] == nil || len(l.asked) != 2 {
		t.Errorf("files %v, asked %v", l.model.files, l.asked)
	}
}

// TestKeysOfTheTerminal: characters with Alt are none.
func TestKeysOfTheTerminal(t *testing.T) {
	for _, c := range []struct {
		event *tcell.EventKey
		want  pressed
		known bool
	}{
		{tcell.NewEventKey(tcell.KeyRune, 'q', tcell.ModNone), 'q', true},
		{tcell.NewEventKey(tcell.KeyRune, 'N', tcell.ModShift), 'N', true},
		{tcell.NewEventKey(tcell.KeyRune, 'q', tcell.ModAlt), 0, false},
		{tcell.NewEventKey(tcell.KeyCtrlC, 0, tcell.ModCtrl), keyInterrupt, true},
		{tcell.NewEventKey(tcell.KeyBackspace2, 0, tcell.ModNone), keyBackspace, true},
		{tcell.NewEventKey(tcell.KeyF5, 0, tcell.ModNone), 0, false},
	} {
		if got, known := pressedOf(c.event); known != c.known || known && got != c.want {
			t.Errorf("%s: %d, %t", c.event.Name(), got, known)
		}
	}
}
