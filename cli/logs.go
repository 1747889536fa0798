package cli

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"gantry/client"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

type logsOptions struct {
	follow, timestamps  bool
	noColor, noPrefix   bool
	since, until, tail  string
	index               int
	sinceTime, untilEnd time.Time
}

func (a *app) logsCommand() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:               "logs [SERVICE...]",
		Short:             "Show what containers have written",
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, services []string) error { return a.logs(cmd.Context(), services, o) },
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.IntVar(&o.index, "index", 0, "number of the container, if a service has several")
	f.BoolVar(&o.noColor, "no-color", false, "no colours")
	f.BoolVar(&o.noPrefix, "no-log-prefix", false, "lines without the name of their container")
	dryRunnable(cmd)
	return cmd
}

// flags are those that `container logs` has as well.
func (o *logsOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with what comes")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "show the time of each line")
	f.StringVar(&o.since, "since", "", "from this `time` on: 2026-01-02T15:04:05Z, or 10m for ten minutes ago")
	f.StringVar(&o.until, "until", "", "up to this `time`")
	f.StringVarP(&o.tail, "tail", "n", "all", "only so many last lines of each container")
}

// parse checks the options.
func (o *logsOptions) parse(now time.Time) error {
	var err error
	if o.sinceTime, err = parseTime("--since", o.since, now); err != nil {
		return err
	}
	if o.untilEnd, err = parseTime("--until", o.until, now); err != nil {
		return err
	}
	if n, err := strconv.Atoi(o.tail); o.tail != "all" && o.tail != "" && (err != nil || n < 0) {
		if err == nil { // Docker takes a negative number for all
			o.tail = "all"
			return nil
		}
		return fmt.Errorf("--tail %q: must be a number of lines or all", o.tail)
	}
	return nil
}

func (o *logsOptions) query() client.LogsOptions {
	return client.LogsOptions{Follow: o.follow, Tail: o.tail, Since: o.sinceTime, Until: o.untilEnd}
}

// parseTime reads a point in time: RFC 3339 in its shorter forms, seconds
// since 1970 with a fraction, or how long ago.
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	if s, err := strconv.ParseFloat(text, 64); err == nil {
		return time.UnixMicro(int64(s * 1e6)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02", "2006-01-02Z07:00"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q: must be a time such as 2026-01-02T15:04:05, seconds since 1970 or a duration such as 10m", flag, text)
}

func (a *app) logs(ctx context.Context, services []string, o logsOptions) error {
	if err := o.parse(time.Now()); err != nil {
		return err
	}
	if o.index > 0 && len(services) != 1 {
		return errors.New("--index needs the name of one service")
	}
	began := time.Now()
	s, err := a.stack(ctx, stackOptions{services: services, all: true, looks: true})
	if err != nil {
		return err
	}
	printer := &logPrinter{out: a.out, prefix: !o.noPrefix, colour: !o.noColor && a.colourful(a.out), timestamps: o.timestamps}
	if o.follow {
		f := newFollower(s.client, s.name, printer, services, began)
		f.index = o.index
		return f.run(ctx, s.containers, o.query())
	}
	var chosen []replica
	for _, r := range s.containers {
		if o.index == 0 || r.labels.Number == o.index {
			chosen = append(chosen, r)
			printer.know(r.short(s.name))
		}
	}
	unread, err := mergeLogs(ctx, s.client, s.name, chosen, o.query(), printer.print)
	if err == nil && len(unread) > 0 && len(unread) == len(chosen) {
		return errors.Join(unread...) // there is nothing to show at all
	}
	for _, e := range unread {
		a.warn(oneLine(e))
	}
	return err
}

// mergeLogs prints the logs of several containers as one, by time. Of each log
// no more than a few lines are held. Containers that keep no log hide nothing
// of the others: unread says which they are.
func mergeLogs(ctx context.Context, c *client.Client, project string, list []replica, o client.LogsOptions, print func(string, logLine)) (unread []error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var merged logHeap
	for _, r := range list {
		src := &logSource{name: r.short(project), lines: make(chan logLine, 64), order: len(merged)}
		go func() { // ends when its log does, or with ctx; pull or drain waits for it
			defer close(src.lines)
			src.err = readLog(ctx, c, r.ID, o, func(l logLine) error {
				select {
				case src.lines <- l:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		}()
		merged = append(merged, src)
	}
	all := append(logHeap(nil), merged...)
	defer func() {
		cancel()
		for _, src := range all {
			for range src.lines {
			}
		}
	}()
	live := merged[:0]
	for _, src := range merged {
		if src.pull() {
			live = append(live, src)
		}
	}
	heap.Init(&live)
	for len(live) > 0 {
		print(live[0].name, live[0].head)
		if live[0].pull() {
			heap.Fix(&live, 0)
		} else {
			heap.Pop(&live)
		}
	}
	var errs []error
	for _, src := range all {
		switch {
		case src.err == nil || ctx.Err() != nil:
		case errdefs.IsNotImplemented(src.err):
			unread = append(unread, src.err)
		default:
			errs = append(errs, src.err)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return unread, errors.Join(errs...)
}

// logSource is one log being merged, with its next line.
type logSource struct {
	name  string
	order int
	lines chan logLine
	head  logLine
	err   error // set before lines is closed
}

func (s *logSource) pull() bool {
	last := s.head.at
	l, ok := <-s.lines
	if l.at.Before(last) {
		l.at = last // a line without a time stays where it is
	}
	s.head = l
	return ok
}

type logHeap []*logSource

func (h logHeap) Len() int { return len(h) }
func (h logHeap) Less(i, j int) bool {
	if !h[i].head.at.Equal(h[j].head.at) {
		return h[i].head.at.Before(h[j].head.at)
	}
	return h[i].order < h[j].order
}
func (h logHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *logHeap) Push(x any)   { *h = append(*h, x.(*logSource)) }
func (h *logHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
