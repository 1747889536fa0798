package scheduler

import (
	"io/fs"
	"maps"
	"slices"
	"sync"
)

// memory keeps records and the history of one project for as long as a life
// lasts. Nothing that a daemon writes after its death gets there.
type memory struct {
	mu      sync.Mutex
	records map[string]*record // nobody writes to one
	told    []Revision
	goals   map[int]Goal
	jobs    map[string][]byte
	dead    bool
}

func newMemory() *memory {
	return &memory{records: map[string]*record{}, goals: map[int]Goal{}, jobs: map[string][]byte{}}
}

func (m *memory) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
}

func (m *memory) record(name string) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.records[name]; r != nil {
		return r
	}
	return &record{}
}

func (m *memory) load() (map[string]record, map[string]error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]record{}
	for name, r := range m.records {
		all[name] = *r
	}
	return all, map[string]error{}, nil
}

func (m *memory) save(name string, r record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	m.records[name] = &r
	return nil
}

func (m *memory) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	delete(m.records, name)
	return nil
}

func (m *memory) append(_ string, r Revision, goal *Goal) (Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return r, errDead
	}
	if r.Number, r.Kept = 1, goal != nil; len(m.told) > 0 {
		r.Number = m.told[len(m.told)-1].Number + 1
	}
	if m.told = append(m.told, r); goal != nil {
		m.goals[r.Number] = *goal // as it is stored, which nobody writes to
	}
	return r, nil
}

func (m *memory) amend(_ string, number int, f func(*Revision)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	for i := range m.told {
		if m.told[i].Number == number {
			f(&m.told[i])
		}
	}
	return nil
}

func (m *memory) list(string) ([]Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Clone(m.told)
	slices.Reverse(all)
	return all, nil
}

func (m *memory) goal(project string, number int) (Goal, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok := m.goals[number]
	if !ok {
		return Goal{}, notFound("project %s has no revision %d", project, number)
	}
	return g.clone(), nil
}

func (m *memory) images(string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for _, g := range m.goals {
		ids = slices.AppendSeq(ids, maps.Values(g.Images))
	}
	return ids, nil
}

func (m *memory) forget(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	m.told, m.goals = nil, map[int]Goal{}
	return nil
}

func (m *memory) times(project string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if data, ok := m.jobs[project]; ok {
		return data, nil
	}
	return nil, fs.ErrNotExist
}

func (m *memory) saveTimes(project string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	m.jobs[project] = data
	return nil
}

func (m *memory) removeTimes(project string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	delete(m.jobs, project)
	return nil
}
