package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// judge prints what has come of it.
func judge(tests []round, mutants []mutant, all bool, took time.Duration) error {
	reasons, err := reasons()
	if err != nil {
		return err
	}
	lives := map[string]bool{}
	var unknown []string
	for _, m := range mutants {
		if m.killer != "" {
			continue
		}
		lives[m.name()] = true
		why, ok := reasons[m.name()]
		if !ok {
			unknown = append(unknown, m.name())
		}
		fmt.Printf("%s/%s:%d survives: %s\n\t%s\n", dir, m.file.name, m.line, m.name(), cmp.Or(why, "NO REASON IS KNOWN"))
	}
	tell(tests, mutants, took)
	var errs []error
	planner, killed := 0, 0
	for _, m := range mutants {
		if !m.file.beside {
			planner++
			if i := slices.IndexFunc(tests, func(r round) bool { return r.name == m.killer }); i >= 0 && !tests[i].other {
				killed++
			}
		}
	}
	fmt.Printf("the planner has %d of them, of which lives, laws and plans alone kill %s\n", planner, share(killed, planner))
	if killed*100 < planner*least {
		errs = append(errs, fmt.Errorf("fewer than %d of 100 mutants of the planner are killed", least))
	}
	if len(unknown) > 0 {
		errs = append(errs, fmt.Errorf("%d survivors are not in survivors.txt", len(unknown)))
	}
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		if all && !lives[name] {
			errs = append(errs, fmt.Errorf("survivors.txt has %q, which does not survive any more: take it out", name))
		}
	}
	return errors.Join(errs...)
}

// tell prints a table: how many mutants each round was given, and killed.
func tell(tests []round, mutants []mutant, took time.Duration) {
	all := 0
	fmt.Printf("\n%-10s %8s %8s %8s %10s\n", "round", "mutants", "killed", "by time", "processor")
	for i, r := range tests {
		given, killed, hang := 0, 0, 0
		var busy time.Duration
		for _, m := range mutants {
			if len(m.took) <= i {
				continue
			}
			given++
			busy += m.took[i]
			if m.killer == r.name {
				killed++
				if m.hangs {
					hang++
				}
			}
		}
		all += killed
		fmt.Printf("%-10s %8d %8d %8d %10s\n", r.name, given, killed, hang, busy.Round(time.Second))
	}
	fmt.Printf("%d mutants, %s killed, in %s\n", len(mutants), share(all, len(mutants)), took.Round(time.Second))
}

func share(some, all int) string {
	return fmt.Sprintf("%d (%.1f %%)", some, 100*float64(some)/float64(max(all, 1)))
}

// reasons reads survivors.txt: a line names a mutant, the indented one after it
// says why nobody can notice.
func reasons() (map[string]string, error) {
	all, name := map[string]string{}, ""
	for s := bufio.NewScanner(strings.NewReader(known)); s.Scan(); {
		line := s.Text()
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, "\t"):
			name = line
			all[name] = ""
		case name == "":
			return nil, fmt.Errorf("survivors.txt: a reason for nothing: %s", line)
		default:
			all[name] = strings.TrimSpace(all[name] + " " + strings.TrimSpace(line))
		}
	}
	for name, why := range all {
		if why == "" {
			return nil, fmt.Errorf("survivors.txt: no reason for %s", name)
		}
	}
	return all, nil
}
