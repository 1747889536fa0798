package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gantry/compose"
)

// TestLives lives through many lives of one project on a simulated machine, by
// the whole scheduler in virtual time. A life has at least three services and a
// dependency; it is a row of calls, in which calls to the machine fail, hang,
// or are the last thing a daemon does, while containers end, fall ill and get
// lost. Steps that run side by side end in every order. However it went, the
// laws hold meanwhile, and what was asked for has come true in the end.
//
// GANTRY_LIVES says how many (500 if it is not set, which are always the same;
// `make lives` and `make soak` set it), GANTRY_SEED which one is the first, and
// GANTRY_LIFE=SEED lives one again and tells of it.
func TestLives(t *testing.T) {
	if text := os.Getenv("GANTRY_LIFE"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("GANTRY_LIFE: %v", err)
		}
		l := again(t, seed)
		t.Log(strings.Join(l.told, "\n"))
		if l.err != nil {
			t.Error(l.err)
		}
		return
	}
	lives := 500
	if text := os.Getenv("GANTRY_LIVES"); text != "" {
		var err error
		if lives, err = strconv.Atoi(text); err != nil {
			t.Fatalf("GANTRY_LIVES: %v", err)
		}
	}
	first := uint64(1) // the same few for everybody who only passes by
	switch text := os.Getenv("GANTRY_SEED"); {
	case text != "":
		var err error
		if first, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("GANTRY_SEED: %v", err)
		}
	case os.Getenv("GANTRY_LIVES") != "":
		first = uint64(time.Now().UnixNano())
	}
	t.Logf("%d lives from seed %d", lives, first)
	var mu sync.Mutex
	all, calls := table{}, 0
	begun := time.Now()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a life leaves nothing
	t.Run("lives", func(t *testing.T) {
		n := runtime.GOMAXPROCS(0)
		for part := range n {
			t.Run(fmt.Sprint(part), func(t *testing.T) {
				t.Parallel()
				seen, mine := table{}, 0
				for i := part; i < lives && !t.Failed(); i += n {
					l := &lifetime{seed: first + uint64(i), seen: seen}
					l.live(t)
					mine += l.calls
					if l.err != nil {
						told := again(t, l.seed)
						t.Errorf("%s\n%v\nGANTRY_LIFE=%d lives it again (%v)", strings.Join(told.told, "\n"), l.err, l.seed, told.err)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				all.add(seen)
				calls += mine
			})
		}
	})
	t.Logf("%d calls in %s; what went wrong in which action:\n%s", calls, time.Since(begun).Round(time.Millisecond), all)
	if lives < 100_000 || t.Failed() {
		return
	}
	for _, action := range actions() {
		for _, f := range allFaults {
			if possible(f, action) && all[cell{f, action}] == 0 {
				t.Errorf("in %d lives no %s %s", lives, action, f)
			}
		}
	}
}

// again lives a life again and has it tell of itself.
func again(t *testing.T, seed uint64) *lifetime {
	l := &lifetime{seed: seed, tells: true, seen: table{}}
	l.live(t)
	return l
}

// lifetime is one life.
type lifetime struct {
	*rand.Rand
	seed  uint64
	seen  table
	tells bool
	mu    sync.Mutex // guards told
	told  []string
	calls int
	err   error

	used      map[string]Usage                       // by container
	scheduled map[*compose.Project]map[string]string // see jobs

	mixed bool // containers may be of different images, since the last call

	w         *sim
	f         *fate
	mem       *memory
	s         *Scheduler
	untouched func() error

	project    *compose.Project   // as the user has it
	had        map[string]int     // running at the beginning of the call
	first      *Plan              // of the call
	plan       *Plan              // under way
	before     int                // parts done before the call
	promised   map[string]promise // of the walk
	promisedBy Goal               // it was
	wentBack   *Goal              // by the call under way
	pulls      map[string]bool    // images that are to be here before all else
	arm        bool               // something is to go wrong with the first plan
	// disturbed: something has happened that no call has seen to yet.
	disturbed bool
	upset     bool                     // something has happened
	made      map[string]string        // run of a job → id of its container
	taken     map[replicaKey]time.Time // replicas that a call has removed, and when
	halted    map[string]bool          // ids of containers that a call has stopped
	moved     bool                     // a name or a port goes to another service
}

// live lives it, in a bubble of its own.
func (l *lifetime) live(t *testing.T) {
	defer func() {
		if r := recover(); r != nil {
			l.err = fmt.Errorf("%v", r)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		l.begin()
		defer func() { l.s.Close() }()
		acts := 1 + l.IntN(3)/2 // there are more until something has gone wrong
		for i := 0; l.err == nil && i < 12 && (i < acts || len(l.f.seen) == 0); i++ {
			l.err = l.act()
		}
		l.seen.add(l.f.seen)
	})
}

func (l *lifetime) tell(format string, args ...any) {
	if l.tells {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.told = append(l.told, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
	}
}

func (l *lifetime) begin() {
	l.Rand = rand.New(rand.NewPCG(l.seed, 1))
	l.w = newSim()
	l.untouched = l.w.foreign()
	l.w.image("busybox", "sha256:1")
	l.w.image("nginx", "sha256:2")
	l.f = newFate(l.seed, l.w)
	l.f.law, l.f.tell = l.law, l.tell
	l.mem = newMemory()
	l.made = map[string]string{}
	l.taken, l.halted = map[replicaKey]time.Time{}, map[string]bool{}
	l.project = l.drawProject()
	time.Sleep(time.Duration(l.IntN(int(time.Minute)))) // at no time a job is due
	l.open()
}

// open starts a daemon.
func (l *lifetime) open() {
	l.f.mu.Lock() // what begins at once must not die before it can
	l.mem.dead, l.f.dead = false, false
	s, err := open(Config{Engine: gate{w: l.w, pass: l.f.pass}, Log: slog.New(overheard{l}),
		Meter: meter{l}, Measure: defaultMeasure - 17}, l.mem, l.mem)
	if err != nil {
		panic(err)
	}
	l.s = s
	l.f.kill = func() {
		l.mem.die()
		s.cancel() // as in dying: nothing has an effect after it
	}
	l.f.mu.Unlock()
}

// wish is something a user wants.
type wish struct {
	text    string
	all     bool // it is about the whole project
	call    func(ctx context.Context) error
	plan    func(ctx context.Context) (Plan, error) // what call would do; nil: nobody can ask
	options *Options
}

// act is one call and what comes of it.
func (l *lifetime) act() error {
	if err := l.trouble(); err != nil {
		return err
	}
	l.calm(false) // a refusal changes nothing: what the autoscaler does meanwhile is not its doing
	w := l.drawWish()
	l.arm = l.IntN(8) > 0
	err := l.try(w)
	for tries := 0; err != nil; tries++ {
		var r *refusal
		if errors.As(err, &r) && l.plan == nil {
			l.tell("  refused: %v", err)
			// Unless a job was due just then, nobody else does anything.
			if done := l.w.done(l.before); len(done) > 0 && !l.runs(&l.mem.record("shop").Goal) {
				return fmt.Errorf("%s was refused: %w; and yet there was done %s", w.text, err, done)
			}
			return l.settled(w, false)
		}
		if b, ok := errors.AsType[*breach](err); ok {
			return b
		}
		if tries > 2 {
			return fmt.Errorf("%s does not come true: %w", w.text, err)
		}
		l.mend()
		l.arm = tries == 0 && l.IntN(4) == 0
		err = l.try(w)
	}
	return l.settled(w, true)
}

// breach is a law that was broken, as opposed to a call that failed.
type breach struct{ text string }

func (b *breach) Error() string { return b.text }

func broken(format string, args ...any) error { return &breach{fmt.Sprintf(format, args...)} }

// try makes a call. A daemon that dies of it is followed by another, which has
// to finish what the call was stored for. An error is the caller's to see to.
func (l *lifetime) try(w wish) error {
	if l.calls++; l.runs(&l.mem.record("shop").Goal) {
		synctest.Wait() // a run may have waited for the call before
		l.calm(true)
	}
	l.promised, l.wentBack, l.mixed = nil, nil, false
	l.first, l.plan, l.before = nil, nil, len(l.w.done(0))
	l.f.broken = map[string]bool{}
	l.count()
	l.tell("%s", w.text)
	shown, showErr := l.show(w)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // the user, who loses patience
		for range 100 {
			if rest(ctx, time.Minute) != nil {
				break
			}
			l.f.mu.Lock()
			hung := l.f.hung
			l.f.hung = false
			l.f.mu.Unlock()
			if hung {
				break
			}
		}
		cancel()
		close(done)
	}()
	err := w.call(ctx)
	cancel()
	<-done
	l.f.spare()
	if shown != nil && l.first != nil && l.first.String() != shown.String() {
		return broken("the plan shown was\n%s\nand the plan made\n%s", shown, l.first)
	}
	if showErr != nil && err == nil {
		return broken("the plan was refused and the call was not: %v", showErr)
	}
	if !l.f.isDead() {
		if err != nil {
			l.tell("  %v", err)
		}
		return err
	}
	l.tell("  the daemon has died")
	before := l.mem.record("shop")
	l.f.wild = l.IntN(3)
	l.f.failed.Store(false)
	l.rise()
	l.idle(40 * time.Second)
	if l.f.wild = 0; l.f.isDead() {
		l.rise()
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if before.Phase == Walking && l.plan != nil {
		l.calm(false)
		goal, r := before.Goal, l.s.stored("shop")
		switch {
		case r == nil && !goal.IsDown():
			return broken("the goal was lost")
		case r != nil && r.Phase == Failed && l.f.failed.Load():
			return errDead // an update that fails is not tried again behind anybody's back
		case r != nil && r.Phase != Settled:
			return broken("long after the death the project is %s: %s %s", r.Phase, r.Error, l.s.projects["shop"].err)
		case l.wentBack != nil && l.f.failed.Load():
			goal = *l.wentBack
		}
		if r != nil {
			goal.Services = rescaled(goal, r.Goal)
		}
		if err := isTrue(l.w, goal, l.w.look(goal)); err != nil {
			return broken("long after the death: %v", err)
		}
	}
	if before.Phase == Walking && l.plan != nil && l.often(2, 3) {
		return nil // done without whoever called
	}
	return errDead // whoever called will call again
}

// rise starts the daemon after the one that has died.
func (l *lifetime) rise() {
	l.s.Close()
	l.f.spare()
	l.mend()
	l.count()
	l.promised = nil
	l.open()
}

// idle lets time pass in which nobody calls, and daemons may die.
func (l *lifetime) idle(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if l.f.isDead() {
			l.tell("  the daemon has died, with nobody there")
			l.rise()
		}
	}
}

// show is what a dry run says of a wish.
func (l *lifetime) show(w wish) (*Plan, error) {
	if w.plan == nil || l.IntN(8) > 0 {
		return nil, nil
	}
	l.w.mu.Lock()
	now := l.w.clock
	l.w.mu.Unlock()
	defer func() { // a plan may depend on the time: the call is to see the same
		l.w.mu.Lock()
		l.w.clock = now
		l.w.mu.Unlock()
	}()
	plan, err := w.plan(context.Background())
	if err != nil {
		return nil, err
	}
	return &plan, nil
}

// report hears of the call under way. It chooses what goes wrong.
func (l *lifetime) report(e Event) {
	if e.Plan == nil {
		return
	}
	plan := *e.Plan // the next one will be in its place
	l.plan = &plan
	if l.first == nil {
		l.first = &plan
	}
	l.begun(plan)
	if !l.arm {
		return
	}
	// One action of a kind is as likely as any other kind.
	byAction := map[string][]errand{}
	for _, e := range errands(plan) {
		byAction[e.action] = append(byAction[e.action], e)
	}
	if len(byAction) == 0 {
		return
	}
	l.arm = false
	kinds := slices.Sorted(maps.Keys(byAction))
	kind := kinds[l.IntN(len(kinds))]
	var how fault
	for how = ""; how == "" || !possible(how, kind); {
		how = allFaults[l.IntN(len(allFaults))]
	}
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.target, l.f.how, l.f.part = byAction[kind][l.IntN(len(byAction[kind]))], how, 2+l.IntN(4)
	if kind == "Restart" {
		l.f.part = 1
	}
	l.tell("%s %s: %s", l.f.target.call, l.f.target.object, how)
}

// begun hears of a plan that is about to be walked.
func (l *lifetime) begun(plan Plan) {
	l.tell("%s", plan)
	l.promise(plan)
	switch by := l.promisedBy; {
	case by.Options.Rollback:
		l.count() // the way back begins with what there is now
		l.wentBack = &by
	case byAutoscaler(by):
		l.count() // so does what takes back a step of autoscaling
	}
}

// promise notes what is promised of a walk.
func (l *lifetime) promise(plan Plan) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.pulls = map[string]bool{}
	for _, s := range plan.Steps {
		if pull, ok := s.Do.(Pull); ok {
			l.pulls[pull.Ref] = true
		}
	}
	l.promisedBy = l.mem.record("shop").Goal
	l.promised = promises(l.w, l.promisedBy, plan)
}

// count notes what runs before a call.
func (l *lifetime) count() {
	l.had = map[string]int{}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	for _, c := range l.w.containers {
		if c.Project == "shop" && c.present() && !c.OneOff {
			l.had[c.Service]++
		}
	}
}

// mend heals what fell ill.
func (l *lifetime) mend() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	for _, c := range l.w.containers {
		if c.Health == Unhealthy {
			c.Health = Healthy
		}
	}
}

// law is asked before every part of every call.
func (l *lifetime) law(part, object string) error {
	if part == "observe" {
		return nil
	}
	if l.tells {
		l.tell("    %s: %s %s", l.w.clock.Format("04:05.000"), part, object)
	}
	r := l.mem.record("shop")
	if job, c := l.jobOf(&r.Goal, object); job != "" && part != "pull" {
		return l.jobLaw(&r.Goal, job, part, c)
	}
	if r.Phase != Walking && !(runsNeed[part] && l.runs(&r.Goal)) && (r.Phase != Settled || r.Repairing.IsZero()) {
		l.w.lawBroken("%s %s while the goal is not stored", part, object)
		return nil
	}
	if part == "pull" {
		delete(l.pulls, object)
		// Autoscaling replaces nobody, and what it has pulled may be another image.
		l.mixed = l.mixed || byAutoscaler(r.Goal)
	} else if len(l.pulls) > 0 && r.Phase == Walking && r.Goal.Project == l.promisedBy.Project && !(runsNeed[part] && l.runs(&r.Goal)) {
		l.w.lawBroken("%s %s before all images are here", part, object)
	}
	c := l.w.named(object)
	switch {
	case c == nil || r.Goal.IsDown() || r.Phase != Walking:
	case part == "start":
		startLaws(l.w, &r.Goal, c, l.had, l.f.broken)
	case part == "stop" && r.Goal.Project == l.promisedBy.Project && r.Goal.Options.Rollback == l.promisedBy.Options.Rollback:
		stopLaws(l.w, c, l.promised, l.f.broken)
	}
	return nil
}

// settled holds when nobody calls and nothing is under way.
func (l *lifetime) settled(w wish, full bool) error {
	for range 100 { // a dependent may have to be restarted
		l.idle(5 * time.Second)
		if l.f.under.Load() == 0 && l.mem.record("shop").Repairing.IsZero() {
			break
		}
	}
	l.calm(true)
	if err := l.untouched(); err != nil {
		return err
	}
	if len(l.w.broken) > 0 {
		return errors.New(strings.Join(l.w.broken, "\n"))
	}
	r := l.s.stored("shop")
	if l.disturbed = l.disturbed && !(full && w.all); l.disturbed || !full || r == nil {
		return nil // what no call has asked for stays as it is
	}
	if l.mixed {
		return nil
	}
	if r.Phase != Settled {
		return fmt.Errorf("the call has succeeded and the project is %s", r.Phase)
	}
	have := l.w.look(r.Goal)
	have.Was = r.Was
	// A call that found nothing to do is not stored.
	goal := r.Goal
	if w.all && l.wentBack == nil {
		goal.Options = *w.options
	}
	plan, err := Reconcile(goal, have)
	if err != nil {
		return err
	}
	// Where something has ended or is ill, there may be something to wait for.
	l.upset = l.upset || len(l.f.broken) > 0
	if acts(plan) || !l.upset && !plan.Empty() {
		return fmt.Errorf("the call has succeeded and there is left\n%s", plan)
	}
	return isTrue(l.w, goal, have)
}
