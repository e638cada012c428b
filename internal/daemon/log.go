package daemon

import (
	"io"
	"log/slog"
	"time"

	"vprocfs/internal/logqueue"
)

// logPatience is how long a process waits at its end for a reader of the log that does
// not read.
const logPatience = 500 * time.Millisecond

// LogOptions are the options of the log on stderr.
type LogOptions struct {
	Level slog.Level
	JSON  bool // JSON lines instead of text
}

// NewLogger returns a logger that writes to q, and never waits for its reader. If
// journal is true, lines have no time: systemd's journal adds its own (JOURNAL_STREAM,
// systemd.exec(5)).
func (o *LogOptions) NewLogger(q *logqueue.Queue, journal bool) *slog.Logger {
	q.SetNotice(func(w io.Writer, dropped int) {
		slog.New(o.handler(w, journal)).Warn("log lines were dropped: nobody read them", "lines", dropped)
	})
	return slog.New(o.handler(q, journal))
}

func (o *LogOptions) handler(w io.Writer, journal bool) slog.Handler {
	h := &slog.HandlerOptions{Level: o.Level}
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
