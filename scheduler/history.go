package scheduler

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind is what has brought a change about.
type Kind string

// Kinds of changes.
const (
	KindApply     Kind = "apply"
	KindScale     Kind = "scale"
	KindRollback  Kind = "rollback"  // asked for, or by failure_action
	KindAutoscale Kind = "autoscale" // the number of replicas, by what they use
	KindRun       Kind = "run"       // a job, by its schedule
	KindRepair    Kind = "repair"    // which was given up
)

// Outcome is how a change has ended.
type Outcome string

// Outcomes of changes.
const (
	UnderWay    Outcome = "under way"
	Done        Outcome = "done"
	NotDone     Outcome = "failed"
	Interrupted Outcome = "interrupted" // by its caller, or replaced by a down
	RolledBack  Outcome = "rolled back" // it had failed, and failure_action was rollback
)

// Revision is one entry of a project's history. It holds no secrets.
type Revision struct {
	Number   int // from 1, in the order of a project's changes
	Kind     Kind
	At       time.Time // when it began
	Took     time.Duration
	Services []string `json:",omitempty"` // that it changed, sorted
	Changes  []string `json:",omitempty"` // what, for people
	Outcome  Outcome
	Error    string `json:",omitempty"`
	// To is, of a rollback, the number of the revision it went back to.
	To int `json:",omitempty"`
	// Kept says that its goal is kept: one can go back to it.
	Kept bool `json:",omitempty"`
}

// mostRevisions bounds a project's history: that many one can go back to, and
// as many that only tell. So the runs of a job that is due every minute push
// nothing out that is needed.
const mostRevisions = 20

// revisionVersion is the form of a revision on disk.
const revisionVersion = 1

type wireRevision struct {
	Version  int             `json:"version"`
	Revision Revision        `json:"revision"`
	Goal     json.RawMessage `json:"goal,omitempty"` // holds secrets
}

// history keeps what was changed, a directory per project with a file per
// revision, 0600 as the goals are. A project's history ends with the project.
type history struct {
	dir string
	mu  sync.Mutex
}

func (h *history) of(project string) string { return filepath.Join(h.dir, project+".history") }

func (h *history) path(project string, number int) string {
	return filepath.Join(h.of(project), fmt.Sprintf("%06d.json", number))
}

// append adds a revision and returns it with its number. goal, if not nil, is
// kept to go back to.
func (h *history) append(project string, r Revision, goal *Goal) (Revision, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	numbers, err := h.numbers(project)
	if err == nil {
		err = os.MkdirAll(h.of(project), 0o700)
	}
	w := wireRevision{Version: revisionVersion}
	if err == nil && goal != nil {
		w.Goal, err = json.Marshal(*goal)
	}
	if err != nil {
		return r, fmt.Errorf("keep the history of %s: %w", project, err)
	}
	if r.Number, r.Kept = 1, goal != nil; len(numbers) > 0 {
		r.Number = numbers[len(numbers)-1] + 1
	}
	w.Revision = r
	if err := h.write(project, w); err != nil {
		return r, err
	}
	return r, h.trim(project, append(numbers, r.Number))
}

// amend changes a revision that is there; one that has gone stays gone.
func (h *history) amend(project string, number int, f func(*Revision)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.read(h.path(project, number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f(&w.Revision)
	return h.write(project, w)
}

func (h *history) write(project string, w wireRevision) error {
	data, err := json.Marshal(w)
	if err == nil {
		err = (store{h.of(project)}).write(h.path(project, w.Revision.Number), data)
	}
	if err != nil {
		return fmt.Errorf("keep the history of %s: %w", project, err)
	}
	return nil
}

// numbers are those of a project's revisions, sorted.
func (h *history) numbers(project string) ([]int, error) {
	entries, err := os.ReadDir(h.of(project))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []int
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			if n, err := strconv.Atoi(name); err == nil {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	return all, err
}

// trim forgets the oldest of both sorts. What cannot be read counts as one that
// only tells.
func (h *history) trim(project string, numbers []int) error {
	if len(numbers) <= mostRevisions {
		return nil
	}
	var errs []error
	left := map[bool]int{}
	for _, n := range slices.Backward(numbers) {
		w, err := h.read(h.path(project, n))
		if kept := err == nil && w.Revision.Kept; left[kept] >= mostRevisions {
			errs = append(errs, os.Remove(h.path(project, n)))
		} else {
			left[kept]++
		}
	}
	return errors.Join(errs...)
}

func (h *history) read(path string) (wireRevision, error) {
	var w wireRevision
	data, err := os.ReadFile(path)
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return w, fmt.Errorf("revision %s cannot be read: %w", path, err)
	}
	if w.Version > revisionVersion {
		return w, fmt.Errorf("revision %s is of version %d, this gantry knows version %d; use the gantry that wrote it", path, w.Version, revisionVersion)
	}
	return w, nil
}

// list is a project's history, the newest first. What cannot be read is in the
// error, and the others are there nevertheless.
func (h *history) list(project string) ([]Revision, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	numbers, err := h.numbers(project)
	errs := []error{err}
	all := []Revision{}
	for _, n := range slices.Backward(numbers) {
		w, err := h.read(h.path(project, n))
		if errs = append(errs, err); err == nil {
			all = append(all, w.Revision)
		}
	}
	return all, errors.Join(errs...)
}

// goal is the one a revision has kept.
func (h *history) goal(project string, number int) (Goal, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.read(h.path(project, number))
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && w.Goal == nil:
		return Goal{}, notFound("project %s has no revision %d to go back to; `gantry history` shows which there are", project, number)
	case err != nil:
		return Goal{}, err
	}
	var g Goal
	if err := json.Unmarshal(w.Goal, &g); err != nil {
		return Goal{}, fmt.Errorf("revision %d of project %s: %w", number, project, err)
	}
	return g, nil
}

// images are the ids of the images in all goals that a project's history keeps.
// Of a goal that is all it reads.
func (h *history) images(project string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	numbers, err := h.numbers(project)
	errs := []error{err}
	var ids []string
	for _, n := range numbers {
		w, err := h.read(h.path(project, n))
		var goal struct {
			Images map[string]string `json:"images"`
		}
		if err == nil && w.Goal != nil {
			err = json.Unmarshal(w.Goal, &goal)
		}
		errs = append(errs, err)
		ids = slices.AppendSeq(ids, maps.Values(goal.Images))
	}
	return ids, errors.Join(errs...)
}

// forget ends a project's history.
func (h *history) forget(project string) error { return os.RemoveAll(h.of(project)) }

// changes says what a plan changes, as a history does.
func changes(p Plan) (services, texts []string) {
	type key struct{ service, verb, why string }
	count := map[key]int{}
	var order []key
	for _, s := range p.Steps {
		switch s.Do.(type) {
		case Await, Delay, Retire: // they belong to others
			continue
		}
		w := s.Do.What()
		k := key{w.Service, w.Verb, s.Why}
		if w.Service == "" {
			k.service = w.Kind + " " + w.Name
		} else {
			services = append(services, w.Service)
		}
		if count[k]++; count[k] == 1 {
			order = append(order, k)
		}
	}
	weight := func(k key) int { // what matters comes first: where there is room for one, it is said
		return slices.Index([]string{"start", "stop", "restart", "run", "update", "replace"}, k.verb)
	}
	slices.SortStableFunc(order, func(a, b key) int {
		return cmp.Or(cmp.Compare(weight(b), weight(a)), cmp.Compare(a.service, b.service))
	})
	for _, k := range order {
		what := k.verb
		if n := count[k]; n > 1 {
			what = fmt.Sprintf("%s %d containers", k.verb, n)
		}
		texts = append(texts, fmt.Sprintf("%s: %s: %s", k.service, what, k.why))
	}
	slices.Sort(services)
	return slices.Compact(services), texts
}
