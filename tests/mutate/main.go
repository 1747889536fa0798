// Mutate asks the planner's laws and golden plans whether they would notice.
//
// Every branch of the planner is turned round, one at a time: the condition of
// an if or a for, what stands on either side of && and ||, the case of a switch.
// Each of these is a mutant, and the tests must fail for it. All mutants are
// compiled into one test binary, in which a variable of the environment says
// which of them lives, and the checked-in code knows nothing of it.
//
// Survivors are in survivors.txt with the reason why nobody can notice. One that
// is not is a failure, and so is it when lives, laws and golden plans kill fewer
// than nine tenths of the planner's; what else the planner's tests kill is
// counted apart.
//
//	go run ./tests/mutate [-run REGEXP] [-plans] [-v]
package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"
)

// dir is the package that is mutated.
const dir = "scheduler"

// files are those of its files that decide: the planner, which is Reconcile,
// Repair and what they call, and then what decides beside it.
var files = []file{
	{name: "reconcile.go"}, {name: "replicas.go"}, {name: "doors.go"}, {name: "resources.go"}, {name: "reason.go"},
	{name: "down.go"}, {name: "merge.go"}, {name: "fields.go"}, {name: "text.go"}, {name: "rollout.go"}, {name: "inplace.go"},
	{name: "repair.go"}, {name: "jobs.go"}, {name: "state.go"}, {name: "labels.go"},
	{name: "goal.go", only: "NewGoal IsDown inScope policy clone"},
	{name: "plan.go", only: "Effect Empty Destroys String ranges"},
	{name: "place.go", only: "same gone home clash admit ours noteForeign"},
	{name: "actions.go", only: "What String"},
	{name: "autoscale.go", beside: true},
	{name: "status.go", beside: true},
	{name: "hold.go", only: "status stops", beside: true},
	{name: "history.go", only: "changes", beside: true},
	{name: "rollback.go", only: "brokenUpdates goesBack back sameService differs backOf shares", beside: true},
	{name: "project.go", only: "decide union same acts", beside: true},
	{name: "autoscaler.go", only: "moved", beside: true},
}

// file is one of them.
type file struct {
	name   string
	only   string // of its functions, all if it is empty
	beside bool   // it is no part of the planner
}

// variable says which mutant lives, by number; none if it is not set.
const variable = "GANTRY_MUTANT"

// seen says, in the environment too, in which file to note the mutants that
// were asked for.
const seen = "GANTRY_MUTANTS_SEEN"

// least is how many of a hundred of the planner's mutants lives, laws and plans
// are to kill.
const least = 90

//go:embed survivors.txt
var known string

func main() {
	plans := flag.Bool("plans", false, "put them to the golden plans alone, which is quick")
	only := flag.String("run", "", "only mutants whose name matches")
	verbose := flag.Bool("v", false, "tell of every mutant")
	flag.Parse()
	tests := rounds()
	if *plans {
		tests = slices.DeleteFunc(tests, func(r round) bool { return r.name != "plans" })
	}
	if err := run(tests, *only, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(tests []round, only string, verbose bool) (err error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	mutants, err := breed(tmp)
	if err != nil {
		return err
	}
	binary := filepath.Join(tmp, "mutants.test")
	build := exec.Command("go", "test", "-c", "-trimpath", "-vet=off", "-overlay", filepath.Join(tmp, "overlay.json"), "-o", binary, "./"+dir)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("compile the mutants: %w", err)
	}
	// The plans as they are now: somebody may be working on them meanwhile.
	if err := os.CopyFS(filepath.Join(tmp, "testdata"), os.DirFS(filepath.Join(dir, "testdata"))); err != nil {
		return err
	}
	begun := time.Now()
	for i := range tests {
		if err := tests[i].measure(binary); err != nil {
			return err
		}
	}
	mutants = slices.DeleteFunc(mutants, func(m mutant) bool { return !match.MatchString(m.name()) })
	putAllToTest(tests, binary, mutants, verbose)
	return judge(tests, mutants, only == "", time.Since(begun))
}

// breed writes the mutated files and the overlay that puts them in place.
func breed(tmp string) ([]mutant, error) {
	here, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	replace := map[string]string{}
	put := func(name string, text []byte) error {
		path := filepath.Join(tmp, name)
		replace[filepath.Join(here, name)] = path
		return os.WriteFile(path, text, 0o600)
	}
	var all []mutant
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(here, f.name))
		if err != nil {
			return nil, err
		}
		more, mutated, err := mutate(f, text, len(all))
		if err == nil {
			err = put(f.name, mutated)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	if err := put("mutants.go", []byte(chooser)); err != nil {
		return nil, err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	return all, os.WriteFile(filepath.Join(tmp, "overlay.json"), overlay, 0o600)
}

func putAllToTest(tests []round, binary string, mutants []mutant, verbose bool) {
	var work sync.WaitGroup
	var mu sync.Mutex
	next := make(chan *mutant)
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for m := range next {
				putToTest(tests, binary, m)
				if verbose {
					mu.Lock()
					fmt.Printf("%-12s %s:%d %s\n", cmp.Or(m.killer, "SURVIVES"), m.file.name, m.line, m.name())
					mu.Unlock()
				}
			}
		})
	}
	for i := range mutants {
		next <- &mutants[i]
	}
	close(next)
	work.Wait()
}

// putToTest finds what kills a mutant.
func putToTest(tests []round, binary string, m *mutant) {
	for _, r := range tests {
		took, hangs, err := r.attempt(binary, m.id)
		m.took = append(m.took, took)
		if err != nil {
			m.killer, m.hangs = r.name, hangs
			return
		}
	}
}
