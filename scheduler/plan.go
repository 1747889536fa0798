package scheduler

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Plan is what to do, in an order of which only Step.After is binding. It is a
// value, and it prints as text that is the same for the same goal and state.
type Plan struct {
	Project string
	Steps   []Step
	// Notes are what a user should know although nothing is done about it:
	// orphans left alone, volumes whose definition has changed.
	Notes []string
	// Parallel bounds the steps done at the same time; 0: [DefaultParallel].
	Parallel int
	// again says that there is something to do soon, without anything happening.
	again bool
}

// Step is one action of a plan.
type Step struct {
	ID int // from 1, in the order of the plan
	Do Action
	// After are the ids of the steps that must have succeeded before, sorted.
	After []int
	// Why is the reason, for people.
	Why string
	// Changes are the fields that are the reason, as far as there are any.
	Changes []Change
	// Destroys says which data is lost, "" if none. It is the question a user
	// is asked before the plan runs.
	Destroys string
	// Optional steps may fail: that is reported, opens the door for the steps
	// after it, and is not a failure of the plan.
	Optional bool
}

// Effect is what a step means for what there is.
type Effect string

// Effects. A step without any makes something, starts, stops or removes it, or
// waits: its action says so.
const (
	InPlace      Effect = "in place" // a container changes and runs on
	Restarts     Effect = "restart"
	Replaces     Effect = "replace"
	DestroysData Effect = "destroys data"
)

// Effect of the step; the gravest, if there are more.
func (s Step) Effect() Effect {
	if s.Destroys != "" {
		return DestroysData
	}
	switch s.Do.What().Verb {
	case "update":
		return InPlace
	case "restart":
		return Restarts
	case "replace":
		return Replaces
	}
	return ""
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Steps) == 0 }

// Destroys lists what data the plan would lose.
func (p Plan) Destroys() []string {
	var all []string
	for _, s := range p.Steps {
		if s.Destroys != "" {
			all = append(all, s.Destroys)
		}
	}
	return all
}

// String is the plan in full, a line per step; [Plan.Text] is for people.
//
//  1. create network shop_back: it does not exist
//  2. run shop-db-1: it does not exist [after 1]
//  3. await db healthy: web depends on it [after 2]
func (p Plan) String() string {
	var b strings.Builder
	if p.Empty() {
		b.WriteString("nothing to do\n")
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%d. %s: %s", s.ID, s.Do, s.Why)
		if s.Optional {
			b.WriteString(" (may fail)")
		}
		if len(s.After) > 0 {
			fmt.Fprintf(&b, " [after %s]", ranges(s.After))
		}
		b.WriteByte('\n')
		if s.Destroys != "" {
			fmt.Fprintf(&b, "   destroys %s\n", s.Destroys)
		}
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

// ranges writes sorted numbers briefly: "1-3 7".
func ranges(n []int) string {
	var b strings.Builder
	for i := 0; i < len(n); {
		j := i
		for j+1 < len(n) && n[j+1] == n[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		switch {
		case j == i:
			fmt.Fprintf(&b, "%d", n[i])
		case j == i+1:
			fmt.Fprintf(&b, "%d %d", n[i], n[j])
		default:
			fmt.Fprintf(&b, "%d-%d", n[i], n[j])
		}
		i = j + 1
	}
	return b.String()
}

type wirePlan struct {
	Project string     `json:"project"`
	Steps   []wireStep `json:"steps"`
	Notes   []string   `json:"notes,omitempty"`
}

type wireStep struct {
	ID int `json:"id"`
	What
	Text     string   `json:"text"`
	Why      string   `json:"why"`
	Changes  []Change `json:"changes,omitempty"`
	Effect   Effect   `json:"effect,omitempty"`
	After    []int    `json:"after,omitempty"`
	Destroys string   `json:"destroys,omitempty"`
	Optional bool     `json:"optional,omitempty"`
}

// MarshalJSON shows a plan. It holds what String does and no secrets. The plan
// is empty when its steps are.
func (p Plan) MarshalJSON() ([]byte, error) {
	w := wirePlan{Project: p.Project, Steps: make([]wireStep, 0, len(p.Steps)), Notes: p.Notes}
	for _, s := range p.Steps {
		w.Steps = append(w.Steps, wireStep{ID: s.ID, What: s.Do.What(), Text: s.Do.String(),
			Why: s.Why, Changes: s.Changes, Effect: s.Effect(), After: s.After, Destroys: s.Destroys, Optional: s.Optional})
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote, to be looked at: its actions can
// be printed and not executed.
func (p *Plan) UnmarshalJSON(data []byte) error {
	var w wirePlan
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*p = Plan{Project: w.Project, Notes: w.Notes}
	for _, s := range w.Steps {
		p.Steps = append(p.Steps, Step{ID: s.ID, Do: told{s.What, s.Text}, After: s.After,
			Why: s.Why, Changes: s.Changes, Destroys: s.Destroys, Optional: s.Optional})
	}
	return nil
}
