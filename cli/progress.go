package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"gantry/client"
	"gantry/scheduler"
)

// progress shows a plan being walked. Events come one at a time; close leaves
// the last state standing.
type progress interface {
	event(scheduler.Event)
	// layer is about a part of an image that is pulled or pushed.
	layer(image string, p client.ImageProgress)
	close()
}

// newProgress chooses by --progress and by what standard error is.
// COMPOSE_STATUS_STDOUT moves progress to standard output.
func (a *app) newProgress(title string) progress {
	w := a.statusWriter()
	switch mode := a.progress; {
	case mode == "tty" && a.ansi != "never",
		(mode == "" || mode == "auto") && a.ansi != "never" && isTerminal(w) && a.env("TERM") != "dumb":
		return a.startTTY(w, title)
	}
	return a.lineProgress()
}

// lineProgress is newProgress where other lines come in between, over which a
// live view could not be drawn.
func (a *app) lineProgress() progress {
	w := a.statusWriter()
	switch a.progress {
	case "quiet":
		return quietProgress{}
	case "json":
		return &jsonProgress{enc: json.NewEncoder(w), notes: a.note}
	}
	return &plainProgress{w: w, notes: a.note}
}

func (a *app) statusWriter() io.Writer {
	if a.settingBool("COMPOSE_STATUS_STDOUT") {
		return a.out
	}
	return a.err
}

// note tells what a plan wants its user to know.
func (a *app) note(text string) { fmt.Fprintln(a.err, "gantry: note:", text) }

// words for a step under way and done, in the manner of docker compose.
var words = map[string][2]string{
	"run":     {"Starting", "Started"},
	"create":  {"Creating", "Created"},
	"replace": {"Recreating", "Recreated"},
	"start":   {"Starting", "Started"},
	"stop":    {"Stopping", "Stopped"},
	"update":  {"Updating", "Updated"},
	"restart": {"Restarting", "Restarted"},
	"remove":  {"Removing", "Removed"},
	"pull":    {"Pulling", "Pulled"},
	"push":    {"Pushing", "Pushed"},
	"await":   {"Waiting", "Ready"},
	"kill":    {"Killing", "Killed"},
	"pause":   {"Pausing", "Paused"},
	"unpause": {"Unpausing", "Unpaused"},
	"keep":    {"Looking", "Up to date"},

	"retire": {"Draining", "Removed"},
	"rename": {"Renaming", "Renamed"},
	"delay":  {"Waiting", "Waited"},

	"set aside": {"Renaming", "Renamed"},
}

// wording is how a step's progress is said.
func wording(e scheduler.Event) string {
	w, ok := words[e.What.Verb]
	if !ok {
		w = [2]string{e.What.Verb, e.What.Verb}
	}
	switch e.Progress {
	case scheduler.StepDone:
		return w[1]
	case scheduler.StepFailed:
		if e.Optional {
			return "Warning"
		}
		return "Error"
	case scheduler.StepSkipped:
		return "Skipped"
	}
	if e.What.Verb == "remove" && e.What.Stops { // it is this that may take its time
		return words["stop"][0]
	}
	return w[0]
}

// object is what an event is about, as a line begins with it.
func object(w scheduler.What) string {
	kind := w.Kind
	if kind != "" {
		kind = strings.ToUpper(kind[:1]) + kind[1:]
	}
	return kind + " " + w.Name
}

// oneLine folds an error into one line, without what a container has written:
// the error at the end shows that.
func oneLine(err error) string {
	if err == nil {
		return ""
	}
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, scheduler.Quoted) })
	return strings.TrimSuffix(strings.Join(lines, " "), ":")
}

// quietProgress shows nothing; errors are reported at the end all the same.
type quietProgress struct{}

func (quietProgress) event(scheduler.Event)              {}
func (quietProgress) layer(string, client.ImageProgress) {}
func (quietProgress) close()                             {}

// plainProgress writes a line for every change:
//
//	Container shop-web-1  Started
type plainProgress struct {
	w     io.Writer
	notes func(string)
	seen  noteFilter
	said  map[string]string // of layers
}

func (p *plainProgress) event(e scheduler.Event) {
	if e.Plan != nil {
		p.seen.each(e.Plan.Notes, p.notes)
		return
	}
	line := " " + object(e.What) + "  " + wording(e)
	if e.Err != nil {
		line += ": " + oneLine(e.Err)
	}
	fmt.Fprintln(p.w, line)
}

// layer writes a line for what a layer has come to, and none for every byte.
func (p *plainProgress) layer(_ string, l client.ImageProgress) {
	if p.said[l.Layer] == l.Status {
		return
	}
	if p.said == nil {
		p.said = map[string]string{}
	}
	p.said[l.Layer] = l.Status
	fmt.Fprintf(p.w, " %s  %s\n", l.Layer, l.Status)
}

func (p *plainProgress) close() {}

// noteFilter lets each note pass once: plans are made anew along the way.
type noteFilter map[string]bool

func (f *noteFilter) each(notes []string, tell func(string)) {
	for _, n := range notes {
		if (*f)[n] {
			continue
		}
		if *f == nil {
			*f = noteFilter{}
		}
		(*f)[n] = true
		tell(n)
	}
}

// jsonProgress writes a JSON object for every change, in docker compose's
// shape.
type jsonProgress struct {
	enc   *json.Encoder
	notes func(string)
	seen  noteFilter
}

type jsonLine struct {
	ID      string  `json:"id"`
	Parent  string  `json:"parent_id,omitempty"`
	Status  string  `json:"status"` // Working, Done, Warning, Error
	Text    string  `json:"text"`
	Details string  `json:"details,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Current int64   `json:"current,omitempty"` // bytes of a layer
	Total   int64   `json:"total,omitempty"`
}

func (p *jsonProgress) event(e scheduler.Event) {
	if e.Plan != nil {
		p.seen.each(e.Plan.Notes, func(n string) {
			_ = p.enc.Encode(jsonLine{ID: "Project " + e.Plan.Project, Status: "Warning", Text: "Note", Details: n})
		})
		return
	}
	l := jsonLine{ID: object(e.What), Status: "Working", Text: wording(e), Details: oneLine(e.Err), Seconds: e.Took.Seconds()}
	switch e.Progress {
	case scheduler.StepDone:
		l.Status = "Done"
	case scheduler.StepFailed, scheduler.StepSkipped:
		l.Status = "Error"
		if e.Optional || e.Progress == scheduler.StepSkipped {
			l.Status = "Warning"
		}
	}
	_ = p.enc.Encode(l)
}

func (p *jsonProgress) layer(image string, l client.ImageProgress) {
	line := jsonLine{ID: l.Layer, Parent: "Image " + image, Status: "Working", Text: l.Status, Current: l.Current, Total: l.Total}
	if settled(l.Status) {
		line.Status = "Done"
	}
	_ = p.enc.Encode(line)
}

func (p *jsonProgress) close() {}

// ttyProgress redraws a board on a terminal: at once when something happens,
// though not more often than frames are worth, and for the clock.
type ttyProgress struct {
	w     io.Writer
	size  func() (width, height int)
	now   func() time.Time
	tidy  func()
	done  chan struct{}
	work  sync.WaitGroup
	notes func(string)

	mu    sync.Mutex
	board board
	drawn int // lines of the last frame
	last  time.Time
	told  []string // notes, told when the board stands still
	seen  noteFilter
}

// Pace of redrawing.
const (
	framePace  = 100 * time.Millisecond
	frameLeast = 30 * time.Millisecond
)

func (a *app) startTTY(w io.Writer, title string) progress {
	p := &ttyProgress{
		w: w, now: time.Now, done: make(chan struct{}), notes: a.note,
		size:  func() (int, int) { return terminalSize(w) },
		board: board{title: title, colour: a.colourful(w)},
	}
	p.board.begun = p.now()
	io.WriteString(w, "\x1b[?25l")
	p.tidy = a.interrupts.tidying(func() { io.WriteString(w, "\x1b[?25h") })
	p.work.Go(func() {
		tick := time.NewTicker(framePace)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.mu.Lock()
				p.draw(false)
				p.mu.Unlock()
			case <-p.done:
				return
			}
		}
	})
	return p
}

func (p *ttyProgress) event(e scheduler.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Plan != nil {
		p.seen.each(e.Plan.Notes, func(n string) { p.told = append(p.told, n) })
	}
	p.board.apply(e, p.now())
	if p.now().Sub(p.last) >= frameLeast {
		p.draw(false)
	}
}

func (p *ttyProgress) layer(image string, l client.ImageProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.board.layer(image, l, p.now())
	if p.now().Sub(p.last) >= frameLeast {
		p.draw(false)
	}
}

func (p *ttyProgress) close() {
	close(p.done)
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(true)
	p.tidy()
	for _, n := range p.told {
		p.notes(n)
	}
}

// draw writes a frame over the last one, in one write and, where the terminal
// knows how (mode 2026), shown in one piece. The last frame is whole; those
// before are cut to the terminal's height, or they could not be drawn over.
func (p *ttyProgress) draw(last bool) {
	width, height := p.size()
	if last {
		height = 0
	}
	p.last = p.now()
	lines := p.board.frame(width, height, p.last)
	if len(lines) == 0 && p.drawn == 0 {
		return
	}
	var b strings.Builder
	b.WriteString("\x1b[?2026h\r")
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J\x1b[?2026l")
	p.drawn = len(lines)
	io.WriteString(p.w, b.String())
}
