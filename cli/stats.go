package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"gantry/client"

	"github.com/spf13/cobra"
)

type statsOptions struct {
	all, noStream, noTrunc bool
	format                 string
}

func (a *app) statsCommand() *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:               "stats [SERVICE...]",
		Short:             "Show what containers use",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			s, err := a.stack(cmd.Context(), stackOptions{services: services, all: o.all, looks: true})
			if err != nil {
				return err
			}
			return a.stats(cmd.Context(), s.client, s.containers, o)
		},
	}
	o.flags(cmd, a)
	return cmd
}

func (o *statsOptions) flags(cmd *cobra.Command, a *app) {
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "stopped containers, too")
	f.BoolVar(&o.noStream, "no-stream", false, "once")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not shorten")
	f.StringVar(&o.format, "format", "", "table, json or a Go template")
	a.completeFlagValues(cmd, "format", "table", "json")
	dryRunnable(cmd)
}

// statsRow is what a container uses.
type statsRow struct {
	BlockIO   string
	CPUPerc   string
	Container string
	ID        string
	MemPerc   string
	MemUsage  string
	Name      string
	NetIO     string
	PIDs      string
}

// statsPace is how often a live table is drawn.
const statsPace = time.Second

// stats shows a table, drawn anew each second unless it is to be shown once.
func (a *app) stats(ctx context.Context, c *client.Client, list []replica, o statsOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	var mu sync.Mutex
	rows := make([]statsRow, len(list))
	first := make(chan struct{}, len(list))
	for i, r := range list {
		rows[i] = asStatsRow(r, client.Stats{}, client.Stats{}, o.noTrunc)
		work.Go(func() {
			once := sync.OnceFunc(func() { first <- struct{}{} })
			defer once()
			// A rate needs two samples: the second of the stream has one.
			samples := 0
			var before client.Stats
			_ = c.Stats(ctx, r.ID, true, func(st client.Stats) error {
				samples++
				mu.Lock()
				rows[i] = asStatsRow(r, st, before, o.noTrunc)
				mu.Unlock()
				before = st
				if samples > 1 || !r.live() {
					once()
				}
				return nil
			}) // a container that ends shows nothing more
		})
	}
	for range list {
		select {
		case <-first:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	live := !o.noStream && isTerminal(a.out) && o.format != formatJSON
	tick := time.NewTicker(statsPace)
	defer tick.Stop()
	for {
		var b strings.Builder
		mu.Lock()
		shown := slices.Clone(rows)
		mu.Unlock()
		l := statsTable(shown)
		if err := l.print(&b, o.format, false); err != nil {
			return err
		}
		text := b.String()
		if live {
			text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
		}
		if _, err := io.WriteString(a.out, text); err != nil || o.noStream {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return exitCode(exitInterrupted) // the only way to leave it, not worth a word
		}
	}
}

func statsTable(rows []statsRow) list[statsRow] {
	return list[statsRow]{rows: rows, columns: []column{{"CONTAINER ID", "ID"}, {"NAME", "Name"}, {"CPU %", "CPUPerc"},
		{"MEM USAGE / LIMIT", "MemUsage"}, {"MEM %", "MemPerc"}, {"NET I/O", "NetIO"}, {"BLOCK I/O", "BlockIO"}, {"PIDS", "PIDs"}}}
}

// asStatsRow reckons with two samples: CPU is the part of one processor that
// was used between them.
func asStatsRow(r replica, st, before client.Stats, whole bool) statsRow {
	row := statsRow{ID: r.ID, Container: r.ID, Name: r.name, CPUPerc: "--", MemUsage: "-- / --", MemPerc: "--", NetIO: "-- / --", BlockIO: "-- / --", PIDs: "--"}
	if !whole {
		row.ID = r.ID[:min(12, len(r.ID))]
		row.Container = row.ID
	}
	if st.Read.IsZero() {
		return row
	}
	if before.Read.IsZero() {
		before.CPUStats, before.Read = st.PreCPUStats, st.PreRead
	}
	percent := 0.0
	if passed := st.Read.Sub(before.Read); before.Read.Year() > 1 && passed > 0 && st.CPUStats.CPUUsage.TotalUsage >= before.CPUStats.CPUUsage.TotalUsage {
		percent = float64(st.CPUStats.CPUUsage.TotalUsage-before.CPUStats.CPUUsage.TotalUsage) / float64(passed) * 100
	}
	row.CPUPerc = fmt.Sprintf("%.2f%%", percent)
	used := st.MemoryStats.Usage
	// What the kernel can drop at once is not in use: docker's reckoning.
	cache := st.MemoryStats.Stats["inactive_file"]
	if v, ok := st.MemoryStats.Stats["total_inactive_file"]; ok {
		cache = v
	}
	if cache < used {
		used -= cache
	}
	row.MemUsage = binaryText(float64(used)) + " / " + binaryText(float64(st.MemoryStats.Limit))
	if st.MemoryStats.Limit > 0 {
		row.MemPerc = fmt.Sprintf("%.2f%%", float64(used)/float64(st.MemoryStats.Limit)*100)
	}
	var rx, tx, read, written uint64
	for _, n := range st.Networks {
		rx += n.RxBytes
		tx += n.TxBytes
	}
	for _, b := range st.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(b.Op) {
		case "read":
			read += b.Value
		case "write":
			written += b.Value
		}
	}
	row.NetIO = bytesText(int64(rx)) + " / " + bytesText(int64(tx))
	row.BlockIO = bytesText(int64(read)) + " / " + bytesText(int64(written))
	row.PIDs = fmt.Sprint(st.PidsStats.Current)
	return row
}
