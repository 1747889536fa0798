package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// fault is what becomes of one call to the machine.
type fault string

// Faults. Where the daemon dies, nothing it does from then on has an effect.
const (
	failsBefore fault = "fails before" // with no effect
	failsMidway fault = "fails midway" // after some of its parts
	failsAfter  fault = "fails after"  // with its whole effect
	hangs       fault = "hangs"        // until it is cancelled, with no effect
	hangsAfter  fault = "hangs after"  // the same, with its whole effect
	diesBefore  fault = "dies before"  // the daemon
	diesMidway  fault = "dies midway"  // after some parts
	diesAfter   fault = "dies after"   // and nobody hears of the effect
	exits       fault = "exits"        // what the call was about ends by itself
	sickens     fault = "gets sick"    // it is unhealthy from then on
	vanishes    fault = "vanishes"     // it is gone without a trace
)

var (
	allFaults = []fault{failsBefore, failsMidway, failsAfter, hangs, hangsAfter, diesBefore, diesMidway, diesAfter, exits, sickens, vanishes}

	// wild are those that may befall what nobody has called for.
	wild = []fault{failsBefore, failsMidway, failsAfter, diesBefore, diesMidway, diesAfter}

	errFailed = errors.New("it was fated to fail")
)

// cell is one of the table of what has happened.
type cell struct {
	fault  fault
	action string
}

// table counts what has happened to which action.
type table map[cell]int

func (t table) add(more table) {
	for c, n := range more {
		t[c] += n
	}
}

func (t table) String() string {
	var b strings.Builder
	set := map[string]bool{}
	for c := range t {
		set[c.action] = true
	}
	actions := slices.Sorted(maps.Keys(set))
	fmt.Fprintf(&b, "%-14s", "")
	for _, f := range allFaults {
		fmt.Fprintf(&b, " %12s", f)
	}
	for _, a := range actions {
		fmt.Fprintf(&b, "\n%-14s", a)
		for _, f := range allFaults {
			n := fmt.Sprint(t[cell{f, a}])
			if t[cell{f, a}] == 0 && !possible(f, a) {
				n = "-"
			}
			fmt.Fprintf(&b, " %12s", n)
		}
	}
	return b.String() + "\n"
}

// possible reports whether a fault can befall an action: what has one part is
// not broken off midway, and a network does not fall ill.
func possible(f fault, action string) bool {
	switch f {
	case failsMidway, diesMidway:
		return action == "Run" || action == "Replace" || action == "Update" || action == "Remove" || action == "Restart"
	case exits, sickens, vanishes:
		return !strings.HasSuffix(action, "Network") && !strings.HasSuffix(action, "Volume") &&
			!strings.HasSuffix(action, "Image") && action != "Pull" && action != "Remove"
	}
	return true
}

// errand is one call to the machine as an action makes it.
type errand struct {
	call, object string
	action       string
}

// errands are the calls that the steps of a plan make, learnt by having them
// run against a machine that does nothing.
func errands(p Plan) []errand {
	var all []errand
	for _, s := range p.Steps {
		name := reflect.TypeOf(s.Do).Name()
		_ = s.Do.run(context.Background(), gate{pass: func(_ context.Context, call, object string, _ func() error) error {
			all = append(all, errand{call, object, name})
			return nil
		}})
	}
	return all
}

// fate has calls take their time, each its own, so that steps that run side by
// side end in every order and yet in the same one for the same seed; and it has
// one of them go wrong.
type fate struct {
	seed uint64
	w    *sim

	under  atomic.Int64 // calls under way
	failed atomic.Bool  // one has been made to fail

	mu     sync.Mutex
	count  map[[2]string]int // of calls, by what they are
	target errand            // the call that goes wrong
	how    fault             // "": none does
	part   int               // of a fault midway: the part that is not done
	parts  int               // of the target, seen so far
	within string            // the target as sim knows it, while it runs
	midway fault
	law    func(part, object string) error // asked before every part
	wild   int                             // how many calls of walks without a caller may still go wrong
	dead   bool
	hung   bool // a call waits to be cancelled
	kill   func()
	broken map[string]bool // services to which something happened
	seen   table
	tell   func(format string, args ...any)
}

func newFate(seed uint64, w *sim) *fate {
	f := &fate{seed: seed, w: w, count: map[[2]string]int{}, broken: map[string]bool{}, seen: table{}}
	w.now, w.clock, w.fault = time.Now, time.Now(), f.atPart
	return f
}

// chance is a number that is the same for the same call in the same life,
// whoever comes first.
func (f *fate) chance(call, object string) uint64 {
	f.mu.Lock()
	f.count[[2]string{call, object}]++
	n := f.count[[2]string{call, object}]
	f.mu.Unlock()
	x := f.seed*31 + uint64(n)
	for _, word := range [...]string{call, " ", object} { // FNV-1a
		for i := range len(word) {
			x = (x ^ uint64(word[i])) * 0x100000001b3
		}
	}
	x = (x ^ x>>31) * 0x9e3779b97f4a7c15
	return x ^ x>>29
}

// pass is what a [gate] asks.
func (f *fate) pass(ctx context.Context, call, object string, through func() error) error {
	x := f.chance(call, object)
	f.under.Add(1)
	defer f.under.Add(-1)
	if call == "observe" {
		if f.isDead() {
			return errDead
		}
		return through()
	}
	if err := rest(ctx, time.Duration(x%uint64(2*time.Second))); err != nil {
		return err
	}
	how, action := f.turn(call, object, x>>32)
	switch how {
	case "":
	case failsBefore, failsMidway, failsAfter:
		f.failed.Store(true)
		fallthrough
	default:
		f.tell("    %s %s %s", call, object, how)
	}
	switch how {
	case failsBefore:
		return errFailed
	case hangs:
		return f.hang(ctx)
	case diesBefore:
		return f.die()
	}
	if f.isDead() {
		return errDead
	}
	err := through()
	switch how {
	case "":
		return err
	case failsMidway, diesMidway:
		f.mu.Lock()
		f.within = ""
		f.mu.Unlock()
		if !errors.Is(err, errFailed) && !errors.Is(err, errDead) {
			return err // it had fewer parts: nothing has happened
		}
	case failsAfter:
		if err == nil {
			err = errFailed
		}
	case hangsAfter:
		if err == nil {
			err = f.hang(ctx)
		}
	case diesAfter:
		err = f.die()
	default:
		f.befall(how, call, object)
	}
	f.mu.Lock()
	f.seen[cell{how, action}]++
	f.mu.Unlock()
	return err
}

// turn says what becomes of a call.
func (f *fate) turn(call, object string, x uint64) (fault, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wild > 0 && x%3 == 0 {
		f.wild--
		how := wild[x/3%uint64(len(wild))]
		switch how {
		case failsMidway, diesMidway:
			f.within, f.parts, f.midway, f.part = call+" "+object, 0, how, 1+int(x/16%4)
		case failsBefore, diesBefore:
			f.seen[cell{how, actionOf(call)}]++
		}
		return how, actionOf(call)
	}
	if f.how == "" || f.target.call != call || f.target.object != object {
		return "", ""
	}
	how := f.how
	f.how = ""
	switch how {
	case failsMidway, diesMidway:
		f.within, f.parts, f.midway = call+" "+object, 0, how
	case failsBefore, hangs, diesBefore:
		f.seen[cell{how, f.target.action}]++
	}
	return how, f.target.action
}

// spare lets nothing go wrong any more that was to.
func (f *fate) spare() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.how = ""
}

// atPart is asked before every part of every call: it breaks one off midway.
// The machine's mu is held.
func (f *fate) atPart(part, object string) error {
	f.mu.Lock()
	how := fault("")
	if f.within != "" && f.w.inside == f.within {
		if f.parts++; f.parts == f.part {
			how = f.midway
		}
	}
	f.mu.Unlock()
	switch how {
	case diesMidway:
		return f.die()
	case failsMidway:
		return errFailed
	}
	if f.law != nil {
		return f.law(part, object)
	}
	return nil
}

func (f *fate) hang(ctx context.Context) error {
	f.mu.Lock()
	f.hung = true
	f.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (f *fate) die() error {
	f.mu.Lock()
	f.dead = true
	kill := f.kill
	f.mu.Unlock()
	kill()
	return errDead
}

func (f *fate) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// befall has something happen to the containers that a call was about.
func (f *fate) befall(how fault, call, object string) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.tick()
	for _, c := range f.w.containers {
		if c.Project != "shop" || c.OneOff || c.ID != object && c.Name != object && (call != "await" || c.Service != object) {
			continue
		}
		f.mu.Lock()
		f.broken[c.Service] = true
		f.mu.Unlock()
		switch {
		case how == vanishes:
			delete(f.w.containers, c.ID)
			f.w.happened(c.Project)
		case how == sickens && c.Health != HealthNone:
			c.Health = Unhealthy
		case c.present():
			f.w.exit(c, 1)
		}
	}
}

// rest is a sleep that ends with the context.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// actions are those there are, by the name of their type. A new one is not
// known here before a life has met it: [TestLives] says so.
func actions() []string {
	var all []string
	for _, a := range []Action{Pull{}, RemoveImage{}, CreateNetwork{}, RemoveNetwork{}, CreateVolume{}, RemoveVolume{},
		Run{}, Replace{}, Update{}, Retire{}, Rename{}, Start{}, Stop{}, Restart{}, Remove{}, Await{}, Delay{}} {
		all = append(all, reflect.TypeOf(a).Name())
	}
	return all
}

// actionOf is the action that a call to the machine is named after.
func actionOf(call string) string {
	var b strings.Builder
	for word := range strings.FieldsSeq(call) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}
