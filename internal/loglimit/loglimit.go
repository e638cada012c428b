// SPDX-License-Identifier: Apache-2.0

// Package loglimit bounds how many lines a log gets for one reason: what a container does
// over and over must not fill the log of the host.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Of the lines of one reason, Burst are logged at once, and then PerMinute each minute.
const (
	Burst     = 100
	PerMinute = 10
)

// maxReasons bounds the memory. Messages are constants, and few.
const maxReasons = 1024

// reasonKeys are the attributes that tell reasons with the same message apart. Their values
// are few: names of reasons, errnos and files.
var reasonKeys = map[string]bool{"reason": true, "errno": true, "call": true}

// Handler hands records to another handler. A reason is a level, a message, and the value of
// an attribute named reason, errno or call. Lines that are left out are counted, and a minute
// after the first of them a line says how many there were.
type Handler struct {
	next   slog.Handler
	limits *limits
}

// limits is what a Handler and those that are made of it share.
type limits struct {
	now   func() time.Time
	after func(time.Duration, func())
	out   atomic.Uint64 // all lines that were left out

	mu      sync.Mutex
	reasons map[reason]*tokens
}

type reason struct {
	level         slog.Level
	message, word string
}

// tokens are the lines of a reason that may be logged now.
type tokens struct {
	left    float64
	counted time.Time
	out     int // lines that were left out and not told
}

// New returns a Handler that hands records to next.
func New(next slog.Handler) *Handler {
	return &Handler{next, &limits{
		now: time.Now, reasons: make(map[reason]*tokens),
		after: func(d time.Duration, f func()) { time.AfterFunc(d, f) },
	}}
}

// LeftOut returns how many lines were left out.
func (h *Handler) LeftOut() uint64 { return h.limits.out.Load() }

// Enabled reports whether records of the level are logged.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// WithAttrs returns a Handler with attributes. It shares the limits.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.next.WithAttrs(attrs), h.limits}
}

// WithGroup returns a Handler with a group. It shares the limits.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.next.WithGroup(name), h.limits}
}

// Handle logs a record, or counts it.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	why := reason{level: r.Level, message: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		if reasonKeys[a.Key] {
			why.word = a.Value.String()
			return false
		}
		return true
	})
	if !h.admit(why) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// admit reports whether a line may be logged.
func (h *Handler) admit(why reason) bool {
	l := h.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	t := l.reasons[why]
	if t == nil {
		if len(l.reasons) >= maxReasons {
			clear(l.reasons)
		}
		t = &tokens{left: Burst, counted: now}
		l.reasons[why] = t
	}
	t.left = min(Burst, t.left+PerMinute*now.Sub(t.counted).Minutes())
	t.counted = now
	if t.left >= 1 {
		t.left--
		return true
	}
	l.out.Add(1)
	if t.out++; t.out == 1 {
		l.after(time.Minute, func() { h.tell(why, t) })
	}
	return false
}

// tell logs how many lines were left out.
func (h *Handler) tell(why reason, t *tokens) {
	l := h.limits
	l.mu.Lock()
	n := t.out
	t.out = 0
	l.mu.Unlock()
	r := slog.NewRecord(l.now(), why.level, "log lines were left out", 0)
	r.AddAttrs(slog.String("line", why.message))
	if why.word != "" {
		r.AddAttrs(slog.String("of", why.word))
	}
	r.AddAttrs(slog.Int("lines", n))
	if h.next.Enabled(context.Background(), r.Level) {
		_ = h.next.Handle(context.Background(), r) // as for any other line
	}
}
