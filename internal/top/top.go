// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/report"
)

// Options say what is shown, and how often.
type Options struct {
	List     report.ListOptions // JSON is not used
	Interval time.Duration
	// Count is how often, 0 for no end.
	Count int
	// Detail begins with the files of the first container of the list.
	Detail bool
}

// minInterval is how often the daemon may be asked: it reads what each container is shown.
const minInterval = 100 * time.Millisecond

// Check returns an error if an option has an invalid value.
func (o *Options) Check() error {
	switch {
	case o.Interval < minInterval:
		return fmt.Errorf("invalid argument %q for --interval: must be at least %s", o.Interval, minInterval)
	case o.Count < 0:
		return fmt.Errorf("invalid argument %d for --count: must not be negative", o.Count)
	}
	return o.List.Check()
}

// untilSignal returns a context that ends with ctx or a signal.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
}

// Batch prints to w what a terminal would show, one after the other. It ends with ctx or a
// signal, which is no error.
func Batch(ctx context.Context, w io.Writer, s Source, o Options) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	m := newModel(o.List, o.Interval, bars())
	for n := 0; o.Count == 0 || n < o.Count; n++ {
		if n > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(o.Interval):
			}
		}
		m.add(take(s, m.wanted(), time.Now))
		if n == 0 && m.last.err != nil && m.last.status == nil {
			return m.last.err
		}
		if o.Detail && m.mode == modeList && len(m.chosen) > 0 {
			m.open()
			m.addFiles(take(s, m.wanted(), time.Now))
		}
		text := m.text()
		if n > 0 {
			text = "\n" + text
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

// text returns what there is, as wide as it is.
func (m *model) text() string {
	var s screen
	m.head(&s, m.last.at)
	if m.mode == modeDetail {
		s = append(s, m.drawDetail(0)...)
	} else {
		for _, text := range report.Table(m.chosen, 0) {
			s.add(plain, "%s", text)
		}
	}
	var b strings.Builder
	for _, l := range s {
		b.WriteString(strings.TrimRight(l.text, " ") + "\n")
	}
	return b.String()
}

// bars returns those that the locale has the characters of (locale(7)).
func bars() []rune {
	if isUTF8(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")) {
		return unicodeBars
	}
	return asciiBars
}

// isUTF8 reports whether the first of the settings that is not empty is a UTF-8 locale.
func isUTF8(settings ...string) bool {
	for _, s := range settings {
		if s != "" {
			s = strings.ToLower(s)
			return strings.Contains(s, "utf-8") || strings.Contains(s, "utf8")
		}
	}
	return false
}

// ErrNoTerminal is returned by Run if there is no terminal.
var ErrNoTerminal = errors.New("no terminal: use --batch")
