package image

import (
	"context"
	"io"
	"log/slog"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// libraryLog is a logger for containerd's libraries, which speak logrus, that
// hands everything to out. They take it from the context.
func libraryLog(out *slog.Logger) *log.Entry {
	l := logrus.New()
	redirect(l, forward{out: out})
	return logrus.NewEntry(l)
}

// remoteLog is libraryLog for what speaks to registries, whose debug messages
// show addresses with signatures in them.
func remoteLog(out *slog.Logger) *log.Entry {
	e := libraryLog(out)
	e.Logger.SetLevel(logrus.WarnLevel)
	return e
}

// takeStandardLog does the same for the process's standard logger, which the
// libraries use where they have no context: chatter of their start, such as a
// missing feature of the file system, that concerns nobody unless it is an
// error. Of several stores in one process the last one opened gets it.
func takeStandardLog(out *slog.Logger) {
	redirect(log.L.Logger, forward{out: out, quiet: true})
}

// Chatter is a logger for libraries whose errors reach whoever called them
// anyway: what they say besides is for who looks for a mistake.
func Chatter(out *slog.Logger) *log.Entry {
	l := logrus.New()
	redirect(l, forward{out: out, mute: true})
	return logrus.NewEntry(l)
}

func redirect(l *logrus.Logger, f forward) {
	l.SetOutput(io.Discard)
	l.SetFormatter(noText{})
	l.SetLevel(logrus.WarnLevel)
	if f.out.Enabled(context.Background(), slog.LevelDebug) {
		l.SetLevel(logrus.DebugLevel)
	}
	l.ReplaceHooks(logrus.LevelHooks{})
	l.AddHook(f)
}

// noText saves logrus the work of writing lines nobody reads.
type noText struct{}

func (noText) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

// forward is the hook that carries an entry over.
type forward struct {
	out   *slog.Logger
	quiet bool // warnings are debug messages
	mute  bool // everything is
}

func (forward) Levels() []logrus.Level { return logrus.AllLevels }

func (f forward) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch e.Level {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		level = slog.LevelError
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.InfoLevel:
		level = slog.LevelInfo
	}
	if f.mute || f.quiet && level < slog.LevelError {
		level = slog.LevelDebug
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, slog.Any(k, v))
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	f.out.LogAttrs(ctx, level, e.Message, attrs...)
	return nil
}
