package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// part is a share of the time of one start.
type part struct {
	Name string
	spread
}

// parts collects durations under names, in the order they were first seen.
type parts struct {
	names   []string
	samples map[string][]float64
}

func (p *parts) add(name string, d time.Duration) {
	if p.samples == nil {
		p.samples = map[string][]float64{}
	}
	if _, ok := p.samples[name]; !ok {
		p.names = append(p.names, name)
	}
	p.samples[name] = append(p.samples[name], float64(d)/float64(time.Millisecond))
}

func (p *parts) list() []part {
	var out []part
	for _, n := range p.names {
		out = append(out, part{n, spreadOf(p.samples[n])})
	}
	return out
}

// breakdown says where the time of one start goes: of `up -d` of one service
// by the steps of its plan, and of a container by leaving things out. Nothing
// of it needs the daemon's help.
func (b *bench) breakdown(ctx context.Context, p *platform, n int) ([]part, error) {
	var all parts
	for range n {
		if err := b.upParts(ctx, p, &all); err != nil {
			return all.list(), err
		}
	}
	for range n {
		if err := b.startParts(ctx, p, &all); err != nil {
			return all.list(), err
		}
	}
	return all.list(), nil
}

// upParts takes `up -d` apart. The steps overlap where the plan lets them, so
// the rest is what no step accounts for only while they do not: with one
// service they come one after the other.
func (b *bench) upParts(ctx context.Context, p *platform, all *parts) error {
	dir, err := b.project("parts", "services:\n"+service("web", ""))
	if err != nil {
		return err
	}
	read, err := p.stack(ctx, dir, "config", "-q")
	if err != nil {
		return err
	}
	whole, progress, err := p.stackOutput(ctx, dir, "--progress", "json", "up", "-d")
	if err = errors.Join(err, down(ctx, p, dir)); err != nil {
		return err
	}
	all.add("up -d, 1 service", whole)
	all.add("  the client reads the project (config -q)", read)
	rest := whole - read
	for d := json.NewDecoder(strings.NewReader(progress)); ; {
		var step struct {
			ID, Text string
			Seconds  float64
		}
		err := d.Decode(&step)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("progress of up: %w: %s", err, tail(progress))
		}
		if step.Seconds > 0 {
			kind, _, _ := strings.Cut(step.ID, " ")
			took := time.Duration(step.Seconds * float64(time.Second))
			all.add("  step: "+kind+" "+step.Text, took)
			rest -= took
		}
	}
	all.add("  rest: connection, goal stored, plans", rest)
	return nil
}

// startParts starts containers by the API that lack one thing each.
func (b *bench) startParts(ctx context.Context, p *platform, all *parts) error {
	for _, x := range []struct {
		name string
		bend func(*wish)
	}{
		{"", func(*wish) {}},
		{", no network", func(w *wish) { w.HostConfig.NetworkMode = "none" }},
		{", no seccomp", func(w *wish) { w.HostConfig.SecurityOpt = []string{"seccomp=unconfined"} }},
		{", neither", func(w *wish) {
			w.HostConfig.NetworkMode = "none"
			w.HostConfig.SecurityOpt = []string{"seccomp=unconfined"}
		}},
	} {
		w := wish{Image: imageName, Cmd: []string{"true"}}
		x.bend(&w)
		began := time.Now()
		id, err := p.create(ctx, w)
		if err != nil {
			return err
		}
		created := time.Now()
		err = p.start(ctx, id)
		started := time.Now()
		if err == nil {
			err = p.wait(ctx, id)
		}
		ended := time.Now()
		if err = errors.Join(err, p.remove(context.WithoutCancel(ctx), id)); err != nil {
			return err
		}
		if x.name == "" {
			all.add("a container: create", created.Sub(began))
			all.add("  start", started.Sub(created))
			all.add("  until true has ended", ended.Sub(started))
			all.add("  remove", time.Since(ended))
			continue
		}
		all.add("  start"+x.name, started.Sub(created))
	}
	return nil
}

func printParts(w io.Writer, all []part) {
	table := [][]string{{"where the time goes (ms)", "median", "p10–p90", ""}}
	for _, p := range all {
		table = append(table, []string{p.Name, number(p.Median), number(p.P10) + "–" + number(p.P90), fmt.Sprint("n", p.N)})
	}
	align(w, table)
}
