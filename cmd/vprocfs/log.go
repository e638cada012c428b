package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// logOptions are the flags of the log on stderr.
type logOptions struct {
	level  logLevel
	format logFormat
}

func (o *logOptions) addFlags(fl *pflag.FlagSet) {
	fl.Var(&o.level, "log-level", "least level to log: debug, info, warn or error")
	fl.Var(&o.format, "log-format", "how to log: text or json")
}

// newLogger logs to w. Under systemd's journal, which stamps every line itself
// (JOURNAL_STREAM, systemd.exec(5)), the time is left out.
func (o *logOptions) newLogger(w io.Writer, journal bool) *slog.Logger {
	h := &slog.HandlerOptions{Level: slog.Level(o.level)}
	if journal {
		h.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	if o.format == formatJSON {
		return slog.New(slog.NewJSONHandler(w, h))
	}
	return slog.New(slog.NewTextHandler(w, h))
}

// logLevel is a slog.Level as a flag.
type logLevel slog.Level

func (l logLevel) String() string {
	switch slog.Level(l) {
	case slog.LevelDebug:
		return "debug"
	case slog.LevelWarn:
		return "warn"
	case slog.LevelError:
		return "error"
	}
	return "info"
}

func (l *logLevel) Set(s string) error {
	for _, v := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if logLevel(v).String() == s {
			*l = logLevel(v)
			return nil
		}
	}
	return fmt.Errorf("must be debug, info, warn or error")
}

func (logLevel) Type() string { return "level" }

// logFormat is the form of a log line; the zero value is text.
type logFormat string

const (
	formatText logFormat = "text"
	formatJSON logFormat = "json"
)

func (f logFormat) String() string {
	if f == "" {
		return string(formatText)
	}
	return string(f)
}

func (f *logFormat) Set(s string) error {
	switch v := logFormat(s); v {
	case formatText, formatJSON:
		*f = v
		return nil
	}
	return fmt.Errorf("must be text or json")
}

func (logFormat) Type() string { return "format" }
