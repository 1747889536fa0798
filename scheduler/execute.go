package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"gantry/compose"

	"github.com/hashicorp/go-multierror"
)

// DefaultParallel bounds the steps of a plan that are done at the same time.
// It is generous: the Engine knows better what it can bear.
const DefaultParallel = 256

// Progress is how far a step has come.
type Progress string

// Progress of a step. Every step ends in exactly one of done, failed and
// skipped; only those that have been started can be done or failed.
const (
	StepStarted Progress = "started"
	StepDone    Progress = "done"
	StepFailed  Progress = "failed"
	StepSkipped Progress = "skipped" // what it needs has failed, or the plan was cancelled
)

// Event tells of a plan being executed. It is either a Plan, which the events
// after it are about, or one step's Progress.
type Event struct {
	Plan *Plan

	Step     int // Step.ID
	What     What
	Progress Progress
	Optional bool
	Took     time.Duration // of steps done and failed
	Err      error         // of steps failed
}

type wireEvent struct {
	Plan *Plan `json:"plan,omitempty"`
	Step int   `json:"step,omitempty"`
	*What
	Progress Progress      `json:"progress,omitempty"`
	Optional bool          `json:"optional,omitempty"`
	Took     time.Duration `json:"took,omitempty"` // ns
	Error    string        `json:"error,omitempty"`
}

// MarshalJSON writes the event for the wire; of an error, the text.
func (e Event) MarshalJSON() ([]byte, error) {
	w := wireEvent{Plan: e.Plan, Step: e.Step, Progress: e.Progress, Optional: e.Optional, Took: e.Took}
	if e.Plan == nil {
		w.What = &e.What
	}
	if e.Err != nil {
		w.Error = e.Err.Error()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *Event) UnmarshalJSON(data []byte) error {
	w := wireEvent{What: &What{}}
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*e = Event{Plan: w.Plan, Step: w.Step, What: *w.What, Progress: w.Progress, Optional: w.Optional, Took: w.Took}
	if w.Error != "" {
		e.Err = errors.New(w.Error)
	}
	return nil
}

// Execute walks a plan: each step as soon as all it comes after have
// succeeded, up to p.Parallel at the same time (steps that only wait do not
// count). A failed step opens no door, what does not depend on it goes on, and
// all failures come back as one error. When ctx is done nothing more is
// started, and Execute returns as soon as the steps under way have.
//
// report, if not nil, is called for one event at a time, in the goroutine of
// the caller; while it runs nothing new is started.
func Execute(ctx context.Context, e Engine, p Plan, report func(Event)) error {
	w := newWalk(p, report)
	for {
		for ctx.Err() == nil {
			i, ok := w.next()
			if !ok {
				break
			}
			w.start(ctx, e, i)
		}
		if w.running == 0 {
			break
		}
		w.finish(<-w.results)
	}
	return w.end(ctx)
}

// check asks of every service whether its containers can be made at all, so
// that a plan that cannot succeed is refused before anything is touched.
func check(ctx context.Context, o Observer, p Plan) error {
	var errs []error
	asked := map[*compose.Service]bool{}
	for _, s := range p.Steps {
		var spec RunSpec
		switch a := s.Do.(type) {
		case Run:
			spec = a.Spec
		case Replace:
			spec = a.Spec
		case Update:
			spec = a.Spec
		default:
			continue
		}
		if !asked[spec.Service] {
			asked[spec.Service] = true
			errs = append(errs, o.Check(ctx, spec))
		}
	}
	return errors.Join(errs...)
}

// walk is one execution of a plan.
type walk struct {
	plan    Plan
	report  func(Event)
	index   map[int]int // id → index
	waits   []int       // by index: how many of After are still open
	opens   [][]int     // by index: the steps that wait for this one
	state   []Progress  // "": not begun
	acts    []int       // steps whose doors are open, in the order they opened
	awaits  []int       // the same, of those that only wait
	running int         // all steps under way
	slots   int         // free for steps that do not only wait
	results chan result
	errs    *multierror.Error
	skipped int
}

type result struct {
	index int
	err   error
	took  time.Duration
}

func newWalk(p Plan, report func(Event)) *walk {
	n := len(p.Steps)
	w := &walk{plan: p, report: report, index: make(map[int]int, n), waits: make([]int, n), opens: make([][]int, n),
		state: make([]Progress, n), slots: p.Parallel, results: make(chan result)}
	if w.slots <= 0 {
		w.slots = DefaultParallel
	}
	if report == nil {
		w.report = func(Event) {}
	}
	for i, s := range p.Steps {
		w.index[s.ID] = i
	}
	for i, s := range p.Steps {
		for _, id := range s.After {
			if before, ok := w.index[id]; ok {
				w.waits[i]++
				w.opens[before] = append(w.opens[before], i)
			}
		}
		if w.waits[i] == 0 {
			w.queue(i)
		}
	}
	return w
}

// queue notes that a step may begin.
func (w *walk) queue(i int) {
	if w.waiting(i) {
		w.awaits = append(w.awaits, i)
	} else {
		w.acts = append(w.acts, i)
	}
}

// next takes a step that may begin now.
func (w *walk) next() (i int, ok bool) {
	switch {
	case len(w.awaits) > 0:
		i, w.awaits = w.awaits[0], w.awaits[1:]
	case len(w.acts) > 0 && w.slots > 0:
		i, w.acts = w.acts[0], w.acts[1:]
	default:
		return 0, false
	}
	return i, true
}

// waiting reports whether a step only waits, and so takes no slot.
func (w *walk) waiting(i int) bool {
	switch w.plan.Steps[i].Do.(type) {
	case Await, Delay:
		return true
	}
	return false
}

func (w *walk) start(ctx context.Context, e Engine, i int) {
	w.running++
	if !w.waiting(i) {
		w.slots--
	}
	w.tell(i, StepStarted, result{})
	do := w.plan.Steps[i].Do
	begun := time.Now()
	go func() { // ends before Execute returns: finish takes its result
		err := do.run(ctx, e)
		w.results <- result{index: i, err: err, took: time.Since(begun)}
	}()
}

func (w *walk) finish(r result) {
	w.running--
	if !w.waiting(r.index) {
		w.slots++
	}
	s := w.plan.Steps[r.index]
	if r.err == nil {
		w.tell(r.index, StepDone, r)
		w.open(r.index)
		return
	}
	r.err = fmt.Errorf("%s: %w", s.Do, r.err)
	w.tell(r.index, StepFailed, r)
	if s.Optional {
		w.open(r.index)
		return
	}
	w.errs = multierror.Append(w.errs, r.err)
	w.shut(r.index)
}

// open lets the steps after i come one nearer.
func (w *walk) open(i int) {
	for _, j := range w.opens[i] {
		if w.waits[j]--; w.waits[j] == 0 && w.state[j] == "" {
			w.queue(j)
		}
	}
}

// shut skips the steps after i. An optional one opens its door nevertheless.
func (w *walk) shut(i int) {
	for _, j := range w.opens[i] {
		if w.state[j] != "" {
			continue
		}
		w.tell(j, StepSkipped, result{})
		if w.plan.Steps[j].Optional {
			w.open(j)
			continue
		}
		w.skipped++
		w.shut(j)
	}
}

func (w *walk) tell(i int, p Progress, r result) {
	w.state[i] = p
	s := w.plan.Steps[i]
	w.report(Event{Step: s.ID, What: s.Do.What(), Progress: p, Optional: s.Optional, Took: r.took, Err: r.err})
}

// end skips what was never begun and makes one error of all.
func (w *walk) end(ctx context.Context) error {
	for i := range w.state {
		if w.state[i] == "" {
			w.skipped++
			w.tell(i, StepSkipped, result{})
		}
	}
	if err := context.Cause(ctx); err != nil && w.succeeded() < len(w.plan.Steps) {
		// What failed while being cancelled failed because of it.
		return fmt.Errorf("interrupted after %d of %d steps: %w", w.succeeded(), len(w.plan.Steps), err)
	}
	if w.errs == nil {
		return nil
	}
	skipped := w.skipped
	w.errs.ErrorFormat = func(errs []error) string { return failures(errs, skipped) }
	return w.errs
}

func (w *walk) succeeded() int {
	n := 0
	for _, s := range w.state {
		if s == StepDone {
			n++
		}
	}
	return n
}

// failures is the text of many errors: one is said plainly, more are a list.
func failures(errs []error, skipped int) string {
	var b strings.Builder
	if len(errs) == 1 {
		b.WriteString(errs[0].Error())
	} else {
		fmt.Fprintf(&b, "%d steps failed:", len(errs))
		for _, err := range errs {
			b.WriteString("\n  " + err.Error())
		}
	}
	if skipped > 0 && len(errs) > 1 {
		fmt.Fprintf(&b, "\n  and %d more that needed them were not begun", skipped)
	}
	return b.String()
}
