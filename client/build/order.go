package build

import (
	"slices"
	"strings"
)

// Build is one build of a job. Requests that ask for the same are one build
// with the tags of all.
type Build struct {
	Request
	Names []string // of the requests
	After []int    // builds whose images it needs
}

// Order makes builds of requests, each after those it needs. It is pure.
func Order(requests []Request) ([]Build, error) {
	byName := map[string]Request{}
	for _, r := range requests {
		if _, twice := byName[r.Name]; twice {
			return nil, invalid("%s is asked for twice", r.label())
		}
		byName[r.Name] = r
	}
	var builds []Build
	var stdin string
	done := map[string]int{} // by name of the request
	same := map[string]int{} // by its key
	var visit func(r Request, path []string) (int, error)
	visit = func(r Request, path []string) (int, error) {
		if i, ok := done[r.Name]; ok {
			return i, nil
		}
		if i := slices.Index(path, r.Name); i >= 0 {
			return 0, invalid("builds need each other's images: %s", strings.Join(append(path[i:], r.Name), " → "))
		}
		path = append(slices.Clone(path), r.Name)
		var after []int
		for _, name := range r.Services() {
			needed, ok := byName[name]
			if !ok {
				return 0, invalid("%s: build context service:%s: no such build", r.label(), name)
			}
			i, err := visit(needed, path)
			if err != nil {
				return 0, err
			}
			after = append(after, i)
		}
		if i, ok := same[r.key()]; ok {
			b := &builds[i]
			b.Names = append(b.Names, r.Name)
			for _, tag := range r.Tags {
				if !slices.Contains(b.Tags, tag) {
					b.Tags = append(slices.Clone(b.Tags), tag)
				}
			}
			done[r.Name] = i
			return i, nil
		}
		if r.Context == Stdin || r.Dockerfile == Stdin {
			if stdin != "" {
				return 0, invalid("%s and %s both want standard input", stdin, r.label())
			}
			stdin = r.label()
		}
		slices.Sort(after)
		builds = append(builds, Build{Request: r, Names: []string{r.Name}, After: slices.Compact(after)})
		same[r.key()], done[r.Name] = len(builds)-1, len(builds)-1
		return len(builds) - 1, nil
	}
	for _, r := range requests {
		if err := r.Check(); err != nil {
			if r.Name != "" {
				return nil, &Error{Name: r.Name, Err: err}
			}
			return nil, err
		}
		if _, err := visit(r, nil); err != nil {
			return nil, err
		}
	}
	return builds, nil
}

func (r Request) label() string {
	if r.Name == "" {
		return "the build"
	}
	return "service " + r.Name
}

// Error is what went wrong with one of several builds.
type Error struct {
	Name string
	Err  error
}

func (e *Error) Error() string { return "service " + e.Name + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }
