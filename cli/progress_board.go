package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gantry/client"
	"gantry/scheduler"
)

// board is the state a live view shows: a line for each object, whatever and
// however often something is done to it. It knows neither terminal nor clock.
//
//	[+] up 2/3
//	 ✔ Network shop_edge    Created   0.0s
//	 ⠹ Container shop-db-1  Starting  0.4s
type board struct {
	title  string
	colour bool
	begun  time.Time

	rows  []*row
	index map[string]*row
}

// row is one object.
type row struct {
	object  string
	text    string
	detail  string
	state   scheduler.Progress
	mild    bool // a failure that is none of the plan's
	began   time.Time
	ended   time.Time
	pending bool // of a plan, not yet begun
	of      *row // the image that this is a layer of
}

func (b *board) at(object string) *row {
	if r := b.index[object]; r != nil {
		return r
	}
	if b.index == nil {
		b.index = map[string]*row{}
	}
	r := &row{object: object}
	b.index[object] = r
	b.rows = append(b.rows, r)
	return r
}

// apply takes an event in.
func (b *board) apply(e scheduler.Event, now time.Time) {
	if e.Plan != nil {
		for _, s := range e.Plan.Steps {
			if r := b.at(object(s.Do.What())); r.began.IsZero() {
				r.pending = true
			}
		}
		return
	}
	r := b.at(object(e.What))
	r.pending = false
	r.text, r.state, r.detail, r.mild = wording(e), e.Progress, oneLine(e.Err), e.Optional
	if r.began.IsZero() {
		r.began = now
	}
	if r.ended = now; e.Progress == scheduler.StepStarted {
		r.ended = time.Time{}
		return
	}
	// Of an image that is done or has failed nobody asks for the layers.
	b.rows = slices.DeleteFunc(b.rows, func(other *row) bool { return other.of == r })
}

// layer shows a part of an image below it, for as long as that is under way.
func (b *board) layer(image string, l client.ImageProgress, now time.Time) {
	above := b.at(object(scheduler.What{Kind: "image", Name: image}))
	name := "  " + l.Layer
	i := slices.IndexFunc(b.rows, func(r *row) bool { return r.of == above && r.object == name })
	if i < 0 {
		r := &row{object: name, of: above, began: now}
		for i = len(b.rows); b.rows[i-1] != above && b.rows[i-1].of != above; {
			i--
		}
		b.rows = slices.Insert(b.rows, i, r)
	}
	r := b.rows[i]
	r.text, r.detail, r.state, r.ended = l.Status, "", scheduler.StepStarted, time.Time{}
	if l.Total > 0 {
		r.detail = bytesText(l.Current) + " / " + bytesText(l.Total)
	}
	if settled(l.Status) {
		r.state, r.ended = scheduler.StepDone, now
	}
}

// settled tells whether nothing more will happen to a layer.
func settled(status string) bool {
	switch status {
	case "Pull complete", "Already exists", "Pushed", "Layer already exists", "Mounted from another repository":
		return true
	}
	return false
}

var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// frame is the view at a time: lines no wider than width, and together lower
// than height (0: no bound). When not all rows fit, those at work come first,
// then those that failed, then the latest to be done.
func (b *board) frame(width, height int, now time.Time) []string {
	var shown []*row
	done, total := 0, 0
	for _, r := range b.rows {
		if r.of == nil {
			total++
			if r.state == scheduler.StepDone {
				done++
			}
		}
		if !r.pending {
			shown = append(shown, r)
		}
	}
	if len(b.rows) == 0 {
		return nil
	}
	hidden := 0
	if room := height - 2; height > 0 && len(shown) > max(room, 1) {
		room = max(room-1, 1) // a line for what is hidden
		hidden = len(shown) - room
		shown = fitting(shown, room)
	}
	objects, texts := 0, 0
	for _, r := range shown {
		objects = max(objects, utf8.RuneCountInString(r.object))
		texts = max(texts, utf8.RuneCountInString(r.text))
	}
	objects = min(objects, max(width-texts-14, 10))
	head := fmt.Sprintf("[+] %s %d/%d", b.title, done, total)
	if b.title == "" {
		head = fmt.Sprintf("[+] %d/%d", done, total)
	}
	lines := []string{paint(b.colour, bold, clip(head, width))}
	for _, r := range shown {
		lines = append(lines, b.line(r, objects, texts, width, now))
	}
	if hidden > 0 {
		lines = append(lines, paint(b.colour, dim, clip(fmt.Sprintf("   … and %d more", hidden), width)))
	}
	return lines
}

func (b *board) line(r *row, objects, texts, width int, now time.Time) string {
	mark, colour := spinner[int(now.Sub(b.begun)/framePace)%len(spinner)], cyan
	end := now
	switch r.state {
	case scheduler.StepDone:
		mark, colour = "✔", green
	case scheduler.StepFailed:
		if mark, colour = "✘", red; r.mild {
			mark, colour = "!", yellow
		}
	case scheduler.StepSkipped:
		mark, colour = "-", yellow
	}
	if !r.ended.IsZero() {
		end = r.ended
	}
	// Measured before it is painted: colours take no cells.
	left := fmt.Sprintf("%s  ", pad(clip(r.object, objects), objects))
	seconds := fmt.Sprintf("  %.1fs", end.Sub(r.began).Seconds())
	rest := ""
	if r.detail != "" {
		rest = "  " + r.detail
	}
	used := 3 + utf8.RuneCountInString(left) + texts + utf8.RuneCountInString(seconds)
	if used > width {
		return clip(" "+mark+" "+left+r.text, width)
	}
	return " " + paint(b.colour, colour, mark) + " " + left + paint(b.colour, colour, r.text) +
		strings.Repeat(" ", texts-utf8.RuneCountInString(r.text)) + paint(b.colour, dim, seconds) + clip(rest, width-used)
}

// fitting keeps n rows, in their order.
func fitting(rows []*row, n int) []*row {
	chosen := map[*row]bool{}
	pick := func(ok func(*row) bool) {
		for i := len(rows) - 1; i >= 0 && len(chosen) < n; i-- {
			if !chosen[rows[i]] && ok(rows[i]) {
				chosen[rows[i]] = true
			}
		}
	}
	pick(func(r *row) bool { return r.state == scheduler.StepStarted })
	pick(func(r *row) bool { return r.state == scheduler.StepFailed && !r.mild })
	pick(func(*row) bool { return true })
	var out []*row
	for _, r := range rows {
		if chosen[r] {
			out = append(out, r)
		}
	}
	return out
}

// clip shortens text to n cells.
func clip(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	if n <= 1 {
		return strings.Repeat("…", max(n, 0))
	}
	return string([]rune(text)[:n-1]) + "…"
}

// pad widens text to n cells.
func pad(text string, n int) string {
	return text + strings.Repeat(" ", max(n-utf8.RuneCountInString(text), 0))
}
