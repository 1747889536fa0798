package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// peerShare is the part of the time that a peer may spend on one scene; the
// first time is free.
const peerShare = 1. / 20

// fewRounds are played even if the time is over, by all but the slow: a median
// of less is none.
const fewRounds = 3

// contestant is one column that plays a scene.
type contestant struct {
	column string
	play   func(ctx context.Context, add recorder) error
}

// play plays all rounds. A peer that fails says why in its column and is not
// asked for that scene again. A failure of gantry's does the same, and fails
// the benchmark.
func (b *bench) play(ctx context.Context, platforms []*platform) error {
	var failures []error
	b.warmUp(ctx, platforms)
	out := map[string]bool{} // by column and scene
	spent := map[string]time.Duration{}
	for round := range b.rounds {
		over := time.Since(b.began) > b.limit
		if over && round >= fewRounds {
			b.say("the time is over after %d rounds", round)
			break
		}
		b.idleMemory(platforms)
		for i := range scenes {
			s := &scenes[i]
			if !b.wants(s) || s.keeps && round >= largeRounds {
				continue
			}
			turn := b.contestants(s, platforms)
			for k := range turn {
				c := turn[(k+round)%len(turn)]
				key := c.column + ": " + s.rows[0].name
				slow := spent[key] > time.Duration(peerShare*float64(b.limit))
				if out[key] || (c.column == dockerColumn || c.column == buildahColumn) && round > 0 && (slow || over) {
					continue
				}
				b.say("round %d: %s", round+1, key)
				began := time.Now()
				err := c.play(ctx, func(w *row, v float64) { b.results.add(w, c.column, v) })
				spent[key] += time.Since(began)
				if ctx.Err() != nil {
					return errors.Join(failures...)
				}
				if err == nil {
					continue
				}
				err = fmt.Errorf("%s: %w", s.rows[0].name, err)
				if c.column == gantryColumn {
					failures = append(failures, fmt.Errorf("gantry: %w", err))
				}
				b.results.note(c.column, err.Error())
				out[key] = true
			}
		}
	}
	return errors.Join(failures...)
}

// warmUp plays once what is not to be measured cold. Its failures will be met
// again.
func (b *bench) warmUp(ctx context.Context, platforms []*platform) {
	s := &scenes[0]
	for _, p := range platforms {
		b.say("warm up %s", p.name)
		_ = s.play(ctx, b, p, func(*row, float64) {})
	}
}

// lull is how long nobody has asked anybody for anything before the memory of
// the idle is looked at.
const lull = 8 * time.Second

// idleMemory is taken while no container runs.
func (b *bench) idleMemory(platforms []*platform) {
	if !b.only.MatchString(rss0.name) && !b.only.MatchString(pss0.name) {
		return
	}
	time.Sleep(lull)
	for _, p := range platforms {
		rss, pss, err := p.memory()
		if err != nil {
			b.results.note(p.name, err.Error())
			continue
		}
		b.results.add(rss0, p.name, rss)
		b.results.add(pss0, p.name, pss)
	}
}

// wants tells whether a row of the scene is to be shown, or needed to judge
// one that is.
func (b *bench) wants(s *scene) bool {
	if s.rows[0] == runs && b.only.MatchString(restart.name) || s.rows[0] == loadLarge && b.only.MatchString(pullLarge.name) {
		return true
	}
	return slices.ContainsFunc(s.rows, func(w *row) bool { return b.only.MatchString(w.name) })
}

func (b *bench) wantsAny() bool {
	return slices.ContainsFunc(rows, func(w *row) bool { return b.only.MatchString(w.name) })
}

// wantsFloor tells whether any scene has the floor in it.
func (b *bench) wantsFloor() bool {
	return slices.ContainsFunc(scenes, func(s scene) bool { return s.rows[0] == runs && b.wants(&s) }) &&
		(slices.Contains(b.peers, bareColumn) || slices.Contains(b.peers, crunColumn))
}

// wantsBuilds tells whether anything is to be built.
func (b *bench) wantsBuilds() bool {
	return slices.ContainsFunc(scenes, func(s scene) bool { return s.builds && b.wants(&s) })
}

// contestants of a scene: the platforms, and where one container is made, the
// floor.
func (b *bench) contestants(s *scene, platforms []*platform) []contestant {
	var all []contestant
	for _, p := range platforms {
		all = append(all, contestant{p.name, func(ctx context.Context, add recorder) error { return s.play(ctx, b, p, add) }})
	}
	if p := b.buildah; p != nil && s.builds {
		all = append(all, contestant{p.name, func(ctx context.Context, add recorder) error { return s.play(ctx, b, p, add) }})
	}
	if b.floor == nil || s.rows[0] != runs {
		return all
	}
	for _, c := range []contestant{
		{bareColumn, func(ctx context.Context, add recorder) error { return b.floor.libcontainer(ctx, 3, add.container) }},
		{crunColumn, func(ctx context.Context, add recorder) error { return b.floor.crun(ctx, 3, add.container) }},
	} {
		if slices.Contains(b.peers, c.column) {
			all = append(all, c)
		}
	}
	return all
}
