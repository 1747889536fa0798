package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// A project is known by its name and its place, the directory of its compose
// files. Two directories of one name are two projects that would take each
// other's containers for their own, so the second is refused:
//
//	the caller has named the project (-p)        it is meant, wherever it is
//	nothing of the project is there              nothing to take
//	it is the same directory by another path     the same project
//	the other directory is gone                  the project has moved here
//	else                                         a clash
//
// A directory can only be missed where the caller's own is seen, or the caller
// is on another machine.

// same reports whether two paths lead to one directory.
func (s State) same(a, b string) bool {
	return filepath.Clean(a) == filepath.Clean(b) || s.Dirs[a] != "" && s.Dirs[a] == s.Dirs[b]
}

// gone reports whether a directory is not there any more, while home is.
func (s State) gone(dir, home string) bool {
	id, looked := s.Dirs[dir]
	return looked && id == "" && s.Dirs[home] != ""
}

// home is the place of a project: the one its goal names or, without a goal,
// those that its containers name, sorted. Where it has no containers it is
// nowhere.
func home(project string, stored *Goal, have State) []string {
	dirs := map[string]bool{}
	some := false
	for _, c := range have.Containers {
		if c.Project != project || c.OneOff {
			continue
		}
		if some = true; c.Dir != "" {
			dirs[c.Dir] = true
		}
	}
	switch {
	case !some:
		return nil
	case stored != nil && stored.Project.WorkingDir != "":
		return []string{stored.Project.WorkingDir}
	}
	return sortedKeys(dirs)
}

// clash says why a call from a directory is not about this project, nil if it
// is. from is where the project was, if it has moved to the directory.
func clash(project, dir string, stored *Goal, have State) (from string, err error) {
	homes := home(project, stored, have)
	if dir == "" || len(homes) == 0 || slices.ContainsFunc(homes, func(h string) bool { return have.same(h, dir) }) {
		return "", nil
	}
	for _, h := range homes {
		if !have.gone(h, dir) {
			return "", conflict("project %s is that of %s, and this is %s: use --instance NAME for a copy of your own, another name with -p, or -p %s if that project is meant",
				project, h, dir, project)
		}
	}
	return homes[0], nil
}

// admit refuses a goal whose caller means another project of the same name,
// and says it if the project has moved.
func admit(stored *Goal, goal Goal, have State) (note string, err error) {
	dir := cmp.Or(goal.Options.Dir, goal.Project.WorkingDir)
	if goal.Options.Named {
		return "", nil
	}
	from, err := clash(goal.Project.Name, dir, stored, have)
	if from != "" {
		note = fmt.Sprintf("project %s has moved here from %s, which is gone", goal.Project.Name, from)
	}
	return note, err
}

// ours reports whether what was made from a directory is the project's: it is
// the project's own, as far as is known, or is gone.
func (p *planner) ours(dir string) bool {
	home := p.p.WorkingDir
	return home == "" || dir == "" || p.have.same(dir, home) || p.have.gone(dir, home)
}

// noteForeign speaks of containers that stay because they are another place's.
func (p *planner) noteForeign(list []*Container) {
	byDir := map[string][]string{}
	for _, c := range list {
		byDir[c.Dir] = append(byDir[c.Dir], c.Name)
	}
	for _, dir := range sortedKeys(byDir) {
		slices.Sort(byDir[dir])
		p.note("containers of the same project name stay, they are those of %s: %s", dir, strings.Join(byDir[dir], ", "))
	}
}

// Clash is the refusal that a call from a directory would get which does not
// name the project, nil if it would get none.
func (s *Scheduler) Clash(ctx context.Context, project, dir string) error {
	var stored *Goal
	look := Look{Project: project, Dirs: []string{dir}}
	if r := s.stored(project); r != nil {
		stored = &r.Goal
		look.Dirs = append(look.Dirs, r.Goal.Project.WorkingDir)
	}
	have, err := s.engine.Observe(ctx, look)
	if err != nil {
		return fmt.Errorf("look at project %s: %w", project, err)
	}
	_, err = clash(project, dir, stored, have)
	return err
}
