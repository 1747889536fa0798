package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A hundred is where what is done for each container adds up. Docker takes
// minutes for it and is left out.

// probedFor is how long the cost of probing is measured: every container is
// probed three times.
const probedFor = 30 * time.Second

func playServices(ctx context.Context, b *bench, p *platform, add recorder) error {
	if p.name != gantryColumn {
		return nil
	}
	text := "services:\n"
	for i := range 100 {
		text += service(fmt.Sprintf("s%d", i), "")
	}
	return withStack(ctx, b, p, add, "services", text, 100, up100, down100, func(dir string) error {
		for range 3 {
			took, err := p.stack(ctx, dir, "up", "-d")
			if err != nil {
				return err
			}
			add.took(noop100, took)
		}
		return nil
	})
}

func playScale(ctx context.Context, b *bench, p *platform, add recorder) error {
	if p.name != gantryColumn {
		return nil
	}
	ignored := func(*row, float64) {}
	return withStack(ctx, b, p, ignored, "scaled", "services:\n"+service("web", ""), 1, up1, down1, func(dir string) error {
		took, err := p.stack(ctx, dir, "scale", "web=100")
		if err != nil {
			return err
		}
		live, err := p.running(ctx, "scaled")
		if err != nil {
			return err
		}
		if live != 100 {
			return fmt.Errorf("scaled to 100, and %d containers run", live)
		}
		add.took(scale100, took)
		time.Sleep(lull)
		rss, pss, err := p.memory()
		if err != nil {
			return err
		}
		add(rss100, rss)
		add(pss100, pss)
		return nil
	})
}

// playProbes measures what a hundred healthy containers cost that are probed
// every ten seconds. The processes of probes are not the platform's own: they
// are neither of those that were there before.
func playProbes(ctx context.Context, b *bench, p *platform, add recorder) error {
	if p.name != gantryColumn {
		return nil
	}
	for _, x := range []struct {
		row   *row
		check string
	}{
		{probesExec, "    healthcheck: {test: [CMD, \"true\"], interval: 10s}\n"},
		{probesTCP, "    x-gantry: {healthcheck: {tcp: 8080, interval: 10s}}\n"},
		{probesHTTP, "    x-gantry: {healthcheck: {http: 8080/, interval: 10s}}\n"},
	} {
		text := "services:\n" + strings.Replace(service("web", "    scale: 100\n"+x.check), idle, `["/payload", ":8080"]`, 1)
		dir, err := b.project("probed", text)
		if err != nil {
			return err
		}
		if err := b.probes(ctx, p, dir, x.row, add); err != nil {
			return fmt.Errorf("%s: %w", x.row.name, err)
		}
	}
	return nil
}

func (b *bench) probes(ctx context.Context, p *platform, dir string, w *row, add recorder) (err error) {
	defer func() {
		if downErr := down(ctx, p, dir); err == nil {
			err = downErr
		}
	}()
	if _, err := p.stack(ctx, dir, "up", "-d", "--wait"); err != nil {
		return err
	}
	time.Sleep(5 * time.Second) // what the start has left to do
	pids := p.processes()
	before, err := cpuTime(pids)
	if err != nil {
		return err
	}
	began := time.Now()
	select {
	case <-time.After(probedFor):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := cpuTime(pids)
	if err != nil {
		return err
	}
	add(w, 100*float64(after-before)/float64(time.Since(began)))
	return nil
}

// cpuTime is what processes have used, without their children; see
// proc_pid_stat(5). The kernel counts in hundredths of a second.
func cpuTime(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, i := range []int{11, 12} { // utime and stime, after pid and name
			ticks, err := strconv.Atoi(fields[i])
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ticks) * time.Second / 100
		}
	}
	return sum, nil
}
