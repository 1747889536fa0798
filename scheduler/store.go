package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gantry/compose"
)

// record is what is kept of a project.
type record struct {
	Goal Goal
	// Was is the project that was last brought to its goal, to say later what
	// has changed since.
	Was   *compose.Project
	Phase Phase  // Walking, Settled or Failed
	Error string // why it failed
	// Repairing is when the repair under way was begun, or the one that a call has
	// broken off; zero: there is none.
	Repairing time.Time
	// Restarting are the ids of the containers it stops, to start or replace them.
	Restarting []string
	// Revision is the history's entry for the walk under way, Base for the last
	// goal that came about; 0: there is none.
	Revision, Base int
	// Unasked: nobody has called for the walk under way.
	Unasked bool
}

// recordVersion is the form of a record on disk.
const recordVersion = 1

type wireRecord struct {
	Version    int       `json:"version"`
	Phase      Phase     `json:"phase"`
	Error      string    `json:"error,omitempty"`
	Goal       Goal      `json:"goal"`
	Was        string    `json:"was,omitempty"` // canonical YAML
	Repairing  time.Time `json:"repairing,omitzero"`
	Restarting []string  `json:"restarting,omitempty"`
	// Entries of the history.
	Revision int  `json:"revision,omitempty"`
	Base     int  `json:"base,omitempty"`
	Unasked  bool `json:"unasked,omitempty"`
}

// shelf is where records are kept: a [store], and memory where a million lives
// are lived.
type shelf interface {
	load() (records map[string]record, newer map[string]error, errs error)
	save(name string, r record) error
	remove(name string) error
	// The times of a project's jobs; fs.ErrNotExist without any.
	times(project string) ([]byte, error)
	saveTimes(project string, data []byte) error
	removeTimes(project string) error
}

// chronicle is the same for the history of projects: a [history], or memory.
type chronicle interface {
	append(project string, r Revision, goal *Goal) (Revision, error)
	amend(project string, number int, f func(*Revision)) error
	list(project string) ([]Revision, error)
	goal(project string, number int) (Goal, error)
	images(project string) ([]string, error) // ids in the goals that are kept
	forget(project string) error
}

// store keeps one file per project. The files hold secrets: 0600.
type store struct{ dir string }

func openStore(root string) (store, error) {
	dir := filepath.Join(root, "projects")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return store{}, fmt.Errorf("make the directory of goals: %w", err)
	}
	return store{dir}, nil
}

func (s store) timesPath(project string) string { return filepath.Join(s.dir, project+".jobs") }

func (s store) times(project string) ([]byte, error) { return os.ReadFile(s.timesPath(project)) }

func (s store) saveTimes(project string, data []byte) error {
	return s.write(s.timesPath(project), data)
}

func (s store) removeTimes(project string) error {
	if err := os.Remove(s.timesPath(project)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tooNew refuses a file that a newer gantry wrote.
type tooNew struct {
	file    string
	version int
}

func (e *tooNew) Error() string {
	return fmt.Sprintf("%s is of version %d, this gantry knows version %d; use the gantry that wrote it", e.file, e.version, recordVersion)
}

// load reads every record. A file that cannot be read is put aside under
// another name, for people to look at; one of a newer version is left alone.
// Both are in errs, the latter by project.
func (s store) load() (records map[string]record, newer map[string]error, errs error) {
	records, newer = map[string]record{}, map[string]error{}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read the goals: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		path := filepath.Join(s.dir, e.Name())
		if !ok {
			if strings.HasSuffix(e.Name(), ".tmp") { // a write that was never finished
				errs = errors.Join(errs, os.Remove(path))
			}
			continue
		}
		r, err := s.read(path)
		var n *tooNew
		switch {
		case err == nil:
			records[name] = r
		case errors.As(err, &n):
			newer[name] = err
			errs = errors.Join(errs, err)
		default:
			errs = errors.Join(errs, fmt.Errorf("goal %s cannot be read and is put aside as %s.broken: %w", path, path, err), os.Rename(path, path+".broken"))
		}
	}
	return records, newer, errs
}

func (s store) read(path string) (record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var v struct{ Version int }
	if err := json.Unmarshal(data, &v); err != nil {
		return record{}, err
	}
	if v.Version > recordVersion {
		return record{}, &tooNew{path, v.Version}
	}
	var w wireRecord
	if err := json.Unmarshal(data, &w); err != nil {
		return record{}, err
	}
	if name := strings.TrimSuffix(filepath.Base(path), ".json"); w.Goal.Project == nil || w.Goal.Project.Name != name {
		return record{}, fmt.Errorf("it holds no goal of project %s", name)
	}
	r := record{Goal: w.Goal, Phase: w.Phase, Error: w.Error, Repairing: w.Repairing, Restarting: w.Restarting, Revision: w.Revision, Base: w.Base, Unasked: w.Unasked}
	if w.Was != "" {
		// It only serves to say what has changed: no reason to lose the goal.
		r.Was, _ = compose.Decode([]byte(w.Was))
	}
	return r, nil
}

func (s store) path(name string) string { return filepath.Join(s.dir, name+".json") }

// save replaces a record: whoever reads, or crashes, finds the old one or the
// new one.
func (s store) save(name string, r record) error {
	w := wireRecord{Version: recordVersion, Phase: r.Phase, Error: r.Error, Goal: r.Goal, Repairing: r.Repairing, Restarting: r.Restarting, Revision: r.Revision, Base: r.Base, Unasked: r.Unasked}
	if r.Was != nil {
		text, err := compose.Encode(r.Was)
		if err != nil {
			return fmt.Errorf("store goal of %s: %w", name, err)
		}
		w.Was = string(text)
	}
	data, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("store goal of %s: %w", name, err)
	}
	if err := s.write(s.path(name), data); err != nil {
		return fmt.Errorf("store goal of %s: %w", name, err)
	}
	return nil
}

func (s store) write(path string, data []byte) (err error) {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = s.sync()
	}
	return err
}

// remove forgets a project.
func (s store) remove(name string) error {
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget goal of %s: %w", name, err)
	}
	return s.sync()
}

// sync makes the names in the directory durable.
func (s store) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
