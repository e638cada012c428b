// SPDX-License-Identifier: Apache-2.0

package loglimit

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// limited is a logger with a clock of its own.
type limited struct {
	*slog.Logger
	handler *Handler
	text    bytes.Buffer
	clock   time.Time
	due     []func()
}

func newLimited() *limited {
	l := &limited{clock: time.Unix(1, 0)}
	l.handler = New(slog.NewTextHandler(&l.text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l.handler.limits.now = func() time.Time { return l.clock }
	l.handler.limits.after = func(_ time.Duration, f func()) { l.due = append(l.due, f) }
	l.Logger = slog.New(l.handler)
	return l
}

// pass lets a minute pass.
func (l *limited) pass() {
	l.clock = l.clock.Add(time.Minute)
	due := l.due
	l.due = nil
	for _, f := range due {
		f()
	}
}

func (l *limited) lines(with string) int { return strings.Count(l.text.String(), with) }

// TestLinesOfOneReasonAreBounded, and those that are left out are counted.
func TestLinesOfOneReasonAreBounded(t *testing.T) {
	l := newLimited()
	for range 1000 {
		l.Error("first", "pid", 1)
	}
	if got := l.lines("msg=first"); got != Burst {
		t.Errorf("%d lines, want %d", got, Burst)
	}
	if got := l.handler.LeftOut(); got != 1000-Burst {
		t.Errorf("%d are counted as left out, want %d", got, 1000-Burst)
	}
	l.pass()
	if want := fmt.Sprintf(`level=ERROR msg="log lines were left out" line=first lines=%d`, 1000-Burst); l.lines(want) != 1 {
		t.Errorf("want %q in:\n%s", want, l.text.String())
	}
	for range 1000 {
		l.Error("first")
	}
	if got := l.lines("msg=first"); got != Burst+PerMinute {
		t.Errorf("%d lines after a minute, want %d", got, Burst+PerMinute)
	}
	for range 60 {
		l.pass()
	}
	for range 1000 {
		l.Error("first")
	}
	if got := l.lines("msg=first"); got != 2*Burst+PerMinute {
		t.Errorf("%d lines after an hour, want %d", got, 2*Burst+PerMinute)
	}
	if got := l.lines("left out"); got != 2 {
		t.Errorf("%d lines say what was left out, want 2", got)
	}
}

// TestOneReasonTakesNoLineOfAnother: another message, level, or word.
func TestOneReasonTakesNoLineOfAnother(t *testing.T) {
	l := newLimited()
	derived := l.With("k", "v").WithGroup("g") // shares the limits
	for range 1000 {
		l.Warn("refused", "errno", "ENOSPC")
		derived.Warn("refused", "errno", "ENOSPC")
	}
	l.Warn("refused", "errno", "EPERM")
	l.Error("refused", "errno", "ENOSPC")
	l.Warn("lost", "errno", "ENOSPC")
	for text, want := range map[string]int{
		"level=WARN msg=refused errno=ENOSPC": Burst / 2, "level=WARN msg=refused errno=EPERM": 1,
		"level=ERROR msg=refused": 1, "msg=lost": 1,
	} {
		if got := l.lines(text); got != want {
			t.Errorf("%q: %d lines, want %d", text, got, want)
		}
	}
}

// TestReasonsAreBounded in memory.
func TestReasonsAreBounded(t *testing.T) {
	l := newLimited()
	for i := range 3 * maxReasons {
		l.Info("m", "reason", i)
	}
	if n := len(l.handler.limits.reasons); n > maxReasons {
		t.Errorf("%d reasons are kept", n)
	}
}

func TestManyMayLogAtTheSameTime(t *testing.T) {
	h := New(slog.NewTextHandler(new(discard), nil))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				slog.New(h).Info("m")
			}
		})
	}
	wg.Wait()
	if got := h.LeftOut(); got != 8*500-Burst {
		t.Errorf("%d are left out", got)
	}
}

type discard struct{}

func (*discard) Write(p []byte) (int, error) { return len(p), nil }
