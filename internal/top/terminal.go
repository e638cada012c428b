// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/gdamore/tcell/v2"
	"golang.org/x/sys/unix"
)

// tick is how often the clock is drawn.
const tick = time.Second

// Run shows the containers on the terminal until somebody quits, or ctx ends, or a signal
// comes, which is no error. It returns ErrNoTerminal if there is none, and an error if the daemon does not
// answer at the beginning.
func Run(ctx context.Context, s Source, o Options) error {
	if _, err := s.Status(); err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	for _, f := range []*os.File{os.Stdin, os.Stdout} {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
			return ErrNoTerminal
		}
	}
	screen, err := tcell.NewScreen()
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return fmt.Errorf("terminal %q: %w: --batch needs none", os.Getenv("TERM"), err)
	}
	defer screen.Fini()
	events, quit := make(chan tcell.Event), make(chan struct{})
	go screen.ChannelEvents(events, quit)
	defer close(quit)

	u := &loop{source: s, model: newModel(o.List, o.Interval, bars()), answers: make(chan *sample, 1), detail: o.Detail}
	u.timer = time.NewTimer(0)
	defer u.timer.Stop()
	clock := time.NewTicker(tick)
	defer clock.Stop()
	for samples := 0; !u.model.quit && (o.Count == 0 || samples < o.Count); {
		show(screen, u.model)
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return nil // the terminal is gone
			}
			u.handle(screen, e)
		case <-u.timer.C:
			u.ask()
		case a := <-u.answers:
			u.take(a)
			samples++
		case <-clock.C:
		}
	}
	return nil
}

// loop asks the daemon while somebody presses keys.
type loop struct {
	source  Source
	model   *model
	timer   *time.Timer  // when to ask
	answers chan *sample // has room for the one that may be under way
	asking  bool
	asked   *key // for its files
	detail  bool // to be opened with the first answer
}

// ask asks, unless an answer is waited for: the daemon may take seconds if it hangs.
func (u *loop) ask() {
	if u.asking {
		return
	}
	u.asking, u.asked = true, nil
	if k := u.model.wanted(); k != nil {
		of := *k
		u.asked = &of
	}
	go func(of *key) { u.answers <- take(u.source, of, time.Now) }(u.asked)
}

// take takes an answer in.
func (u *loop) take(a *sample) {
	u.asking = false
	u.model.add(a)
	if u.detail && len(u.model.chosen) > 0 {
		u.detail = false
		u.model.open()
	}
	wait := u.model.interval
	if k := u.model.wanted(); k != nil && (u.asked == nil || *u.asked != *k) {
		wait = 0
	}
	u.timer.Reset(wait)
}

func (u *loop) handle(screen tcell.Screen, e tcell.Event) {
	switch e := e.(type) {
	case *tcell.EventResize:
		screen.Sync()
	case *tcell.EventKey:
		if e.Key() == tcell.KeyCtrlL {
			screen.Sync()
			return
		}
		mode := u.model.mode
		if k, ok := pressedOf(e); ok {
			u.model.press(k)
		}
		if u.model.mode == modeDetail && mode != modeDetail && !u.asking {
			u.timer.Reset(0)
		}
	}
}

// pressedOf returns the key of an event. It returns false if the key is not known.
func pressedOf(e *tcell.EventKey) (pressed, bool) {
	if e.Key() == tcell.KeyRune {
		return pressed(e.Rune()), e.Modifiers()&(tcell.ModAlt|tcell.ModCtrl|tcell.ModMeta) == 0
	}
	k, ok := map[tcell.Key]pressed{
		tcell.KeyUp: keyUp, tcell.KeyDown: keyDown, tcell.KeyPgUp: keyPageUp, tcell.KeyPgDn: keyPageDown,
		tcell.KeyHome: keyHome, tcell.KeyEnd: keyEnd, tcell.KeyEnter: keyEnter, tcell.KeyEscape: keyEscape,
		tcell.KeyBackspace: keyBackspace, tcell.KeyBackspace2: keyBackspace, tcell.KeyCtrlC: keyInterrupt,
		tcell.KeyCtrlU: keyErase,
	}[e.Key()]
	return k, ok
}

// show draws the model.
func show(screen tcell.Screen, m *model) {
	width, height := screen.Size()
	styles := map[style]tcell.Style{
		plain:    tcell.StyleDefault,
		title:    tcell.StyleDefault.Bold(true).Underline(true),
		selected: tcell.StyleDefault.Reverse(true),
		alarm:    tcell.StyleDefault.Bold(true),
		faint:    tcell.StyleDefault.Dim(true),
	}
	if screen.Colors() > 0 { // 0 with NO_COLOR too
		styles[alarm] = styles[alarm].Foreground(tcell.ColorMaroon)
	}
	screen.Clear()
	for y, l := range m.draw(width, height, time.Now()) {
		st := styles[l.style]
		if l.style != plain {
			for x := range width {
				screen.Put(x, y, " ", st)
			}
		}
		screen.PutStrStyled(0, y, l.text, st)
	}
	screen.Show()
}
