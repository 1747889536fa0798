package scheduler

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A settled project is held: whenever something has happened to it, it is
// looked at as a whole, and what was lost without a call is repaired.
const (
	// holdGap is the least time between two looks: much that happens at once is
	// looked at once.
	holdGap = 50 * time.Millisecond
	// holdRipe is when to look again where something only has to run for a while.
	holdRipe = 250 * time.Millisecond
	// holdEvery is when a project is looked at of which nothing is heard.
	holdEvery = time.Minute
)

// held is what a project knows of being held. Its goroutine alone writes;
// problems are read under the project's mu.
type held struct {
	look     time.Time // when to look next
	looked   time.Time // the last time
	problems []string
	tries    int       // failed repairs in a row
	again    time.Time // before this the same repair is not tried again
	plan     string    // what failed
	failure  string

	// Guarded by mu.
	callers int  // that wait for their turn, or have it
	at      bool // a repair is under way, which breaks off for them
}

// due is when the loop has something to do of its own accord; zero: never.
func (p *project) due() time.Time {
	if r := p.record(); r != nil && r.Phase == Settled {
		return p.held.look
	}
	return p.next
}

// heldAgain forgets, after a call, what could not be repaired before it.
func (p *project) heldAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held.tries, p.held.plan, p.held.failure, p.held.problems = 0, "", "", nil
	p.held.again, p.held.look = time.Time{}, time.Now()
}

// holdSoon looks now, or a little later if it has just been done.
func (p *project) holdSoon() {
	if next := p.held.looked.Add(holdGap); time.Until(next) > 0 {
		p.held.look = next
		return
	}
	p.held.look = time.Now()
	p.hold()
}

// interrupt counts the callers, and breaks off a repair for one: its walk will
// do what is left.
func (p *project) interrupt(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held.callers += n
	if n > 0 && p.held.at && p.breakOff != nil {
		p.breakOff(errReplaced)
	}
}

// status says how it stands; the caller holds mu.
func (h *held) status(st *ProjectStatus) {
	if st.Phase != Settled {
		return
	}
	st.Problems = slices.Clone(h.problems)
	if h.failure != "" {
		st.Problems = append(st.Problems, h.failure)
		st.Next = h.again
	}
	if len(st.Problems) > 0 {
		st.Phase = Degraded
	}
}

// hold looks at a settled project, if it is time, and repairs it.
func (p *project) hold() {
	r := p.record()
	if r == nil || r.Phase != Settled || time.Until(p.held.look) > 0 {
		return
	}
	p.held.looked = time.Now()
	p.held.look = p.held.looked.Add(holdEvery)
	ctx, end := p.walking(p.s.ctx, false)
	p.mu.Lock()
	p.held.at = p.held.callers == 0
	at := p.held.at
	p.mu.Unlock()
	if !at { // whoever waits looks, too
		p.held.look = p.held.looked.Add(holdGap)
		end()
		return
	}
	begun := time.Now()
	plan, err := p.repair(ctx, *r)
	end()
	if p.judge(plan, err); p.held.tries == mostTries && err != nil {
		// It is tried again, but whoever looks shall find that it was in vain.
		rev := Revision{Kind: KindRepair, At: begun, Took: time.Since(begun), Outcome: NotDone, Error: err.Error()}
		rev.Services, rev.Changes = changes(plan)
		p.s.remember(p.name, rev)
	}
}

// judge says what a repair's end means for the next one.
func (p *project) judge(plan Plan, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held.at = false
	h := &p.held
	switch {
	case p.s.ctx.Err() != nil:
	case errors.Is(err, errReplaced): // by a caller, who may have left since
		h.look = h.looked.Add(holdGap)
	case err == nil && plan.Empty():
		h.tries, h.plan, h.failure, h.again = 0, "", "", time.Time{}
		if plan.again {
			h.look = time.Now().Add(holdRipe)
		}
	case err == nil: // it waits for its time
		h.look = h.again
	default:
		h.tries++
		h.plan, h.failure = plan.String(), "repair: "+err.Error()
		h.again = time.Now().Add(delay(h.tries))
		h.look = h.again
		p.s.log.Warn("a repair has failed", "project", p.name, "try", h.tries, "error", err)
	}
}

// repair repairs what is lost and returns the plan there was: empty when
// nothing is left to do, and without an error when it failed before and is not
// to be tried yet.
func (p *project) repair(ctx context.Context, r record) (plan Plan, err error) {
	var begun bool
	for range mostRounds {
		before := plan.String()
		have, err := p.observe(ctx, LookFor(r.Goal))
		if err != nil {
			return plan, err
		}
		var problems []string
		plan, problems, err = Repair(r.Goal, have, r.Repairing, r.Restarting...)
		if err != nil {
			return plan, err
		}
		p.tellProblems(problems)
		switch {
		case plan.Empty():
			if r.Repairing.IsZero() {
				return plan, nil
			}
			r.Repairing, r.Restarting = time.Time{}, nil
			return plan, p.keep(r)
		case !begun && p.held.plan == plan.String() && time.Until(p.held.again) > 0:
			return plan, nil
		case begun && plan.String() == before:
			return plan, conflict("when all steps had succeeded there was left:\n%s", plan)
		}
		// Should this daemon die, the next one finishes what is half made.
		if more := stops(plan, r.Restarting); r.Repairing.IsZero() || len(more) > 0 {
			if r.Repairing.IsZero() {
				r.Repairing = have.Now
			}
			r.Restarting = append(slices.Clone(r.Restarting), more...)
			if err := p.keep(r); err != nil {
				return plan, err
			}
		}
		begun = true
		p.s.log.Info("repairing", "project", p.name, "plan", plan)
		if err := Execute(ctx, p.s.engine, plan, nil); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return plan, err
		}
	}
	return plan, conflict("after %d repairs there is still something to do:\n%s", mostRounds, plan)
}

// stops are the containers that a repair stops and that are not known yet.
func stops(plan Plan, known []string) (ids []string) {
	for _, s := range plan.Steps {
		id := ""
		switch a := s.Do.(type) {
		case Restart:
			id = a.ID
		case Replace:
			id = a.Old
		}
		if id != "" && !slices.Contains(known, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// halted are those of some containers that a call or a repair has stopped. A
// call that breaks a repair off may have nothing to do with them: the next repair
// is to know that they are its own.
func halted(have State, ids []string) (still []string) {
	for i := range have.Containers {
		if c := &have.Containers[i]; c.Stopped && !c.present() && slices.Contains(ids, c.ID) {
			still = append(still, c.ID)
		}
	}
	return still
}

// tellProblems keeps what cannot be repaired for those who ask, and logs it
// once.
func (p *project) tellProblems(all []string) {
	p.mu.Lock()
	before := p.held.problems
	p.held.problems = all
	p.mu.Unlock()
	for _, text := range all {
		if !slices.Contains(before, text) {
			p.s.log.Warn("something is missing", "project", p.name, "problem", text)
		}
	}
}
