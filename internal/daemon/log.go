package daemon

import (
	"io"
	"log/slog"
)

// LogOptions are the options of the log on stderr.
type LogOptions struct {
	Level slog.Level
	JSON  bool // JSON lines instead of text
}

// NewLogger returns a logger that writes to w. If journal is true, lines have
// no time: systemd's journal adds its own (JOURNAL_STREAM, systemd.exec(5)).
func (o *LogOptions) NewLogger(w io.Writer, journal bool) *slog.Logger {
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
		return slog.New(slog.NewJSONHandler(w, h))
	}
	return slog.New(slog.NewTextHandler(w, h))
}
