package runtime

import (
	"context"
	"log/slog"
	"time"
)

// times measures where a start's time goes, for `gantryd --debug`. Laps follow
// one another; "network" was beside them.
type times struct {
	began, last time.Time
	attrs       []slog.Attr
}

func newTimes() *times {
	now := time.Now()
	return &times{began: now, last: now}
}

// lap names what happened since the last lap.
func (t *times) lap(name string) {
	now := time.Now()
	t.add(name, now.Sub(t.last))
	t.last = now
}

func (t *times) add(name string, d time.Duration) {
	t.attrs = append(t.attrs, slog.Duration(name, d.Round(10*time.Microsecond)))
}

func (t *times) log(ctx context.Context, log *slog.Logger, container string) {
	if !log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	log.LogAttrs(ctx, slog.LevelDebug, "started", append([]slog.Attr{
		slog.String("container", container), slog.Duration("total", time.Since(t.began).Round(10*time.Microsecond)),
	}, t.attrs...)...)
}
