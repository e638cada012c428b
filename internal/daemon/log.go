// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"vprocfs/internal/loglimit"
	"vprocfs/internal/logqueue"
)

// logPatience is how long a process waits at its end for a reader of the log that does
// not read.
const logPatience = 500 * time.Millisecond

// LogOptions are the options of the log on stderr.
type LogOptions struct {
	Level slog.Level
	JSON  bool // JSON lines instead of text

	// level is Level, which may change while the process runs.
	level *slog.LevelVar
	limit *loglimit.Handler
}

// SetLevel changes the level of the loggers that NewLogger has made.
func (o *LogOptions) SetLevel(level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("log level %q: must be debug, info, warn or error", level)
	}
	o.level.Set(l)
	return nil
}

// NewLogger returns a logger that writes to q, and never waits for its reader. The lines of
// one reason are bounded (loglimit). If
// journal is true, lines have no time: systemd's journal adds its own (JOURNAL_STREAM,
// systemd.exec(5)).
func (o *LogOptions) NewLogger(q *logqueue.Queue, journal bool) *slog.Logger {
	o.level = new(slog.LevelVar)
	o.level.Set(o.Level)
	q.SetNotice(func(w io.Writer, dropped int) {
		slog.New(o.handler(w, journal)).Warn("log lines were dropped: nobody read them", "lines", dropped)
	})
	o.limit = loglimit.New(o.handler(q, journal))
	return slog.New(o.limit)
}

func (o *LogOptions) handler(w io.Writer, journal bool) slog.Handler {
	h := &slog.HandlerOptions{Level: o.level}
	if journal {
		h.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	if o.JSON {
		return slog.NewJSONHandler(w, h)
	}
	return slog.NewTextHandler(w, h)
}
