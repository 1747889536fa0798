// Mutate asks the planner's laws and golden plans whether they would notice.
//
// Every branch of the planner is turned round, one at a time: the condition of
// an if or a for, what stands on either side of && and ||, the case of a switch.
// Each of these is a mutant, and the tests must fail for it. All mutants are
// compiled into one test binary, in which a variable of the environment says
// which of them lives, and the checked-in code knows nothing of it.
//
// Survivors are in survivors.txt with the reason why nobody can notice. One that
// is not, and fewer than nine tenths killed, are failures.
//
//	go run ./tests/mutate [-run REGEXP] [-plans] [-v]
package main

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// dir is the package that is mutated, files those of its files that decide.
const dir = "scheduler"

var files = []string{"reconcile.go", "replicas.go", "doors.go", "resources.go", "reason.go", "down.go", "merge.go",
	"fields.go", "text.go", "rollout.go", "inplace.go", "repair.go"}

// variable says which mutant lives, by number; none if it is not set.
const variable = "GANTRY_MUTANT"

// round is one run of tests.
type round struct {
	name, run string
	env       []string
	args      []string
	limit     time.Duration
}

// rounds are the tests a mutant is put to, one after the other. A mutant that
// hangs is killed by its time.
var rounds = []round{
	{"plans", "^TestPlans$", nil, nil, 20 * time.Second},
	{"few lives", "^TestLives$", []string{"GANTRY_LIVES=150"}, nil, 30 * time.Second},
	{"laws", "^TestLaws$", nil, []string{"-rapid.checks=60", "-rapid.shrinktime=1ms"}, 60 * time.Second},
	{"lives", "^TestLives$", []string{"GANTRY_LIVES=1000"}, nil, 120 * time.Second},
}

// least is how many of a hundred mutants are to be killed.
const least = 90

//go:embed survivors.txt
var known string

func main() {
	plans := flag.Bool("plans", false, "put them to the golden plans alone, which is quick")
	only := flag.String("run", "", "only mutants whose name matches")
	verbose := flag.Bool("v", false, "tell of every mutant")
	flag.Parse()
	tests := rounds
	if *plans {
		tests = rounds[:1]
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
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(tmp, "overlay.json"), "-o", binary, "./"+dir)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("compile the mutants: %w", err)
	}
	// The plans as they are now: somebody may be working on them meanwhile.
	if err := os.CopyFS(filepath.Join(tmp, "testdata"), os.DirFS(filepath.Join(dir, "testdata"))); err != nil {
		return err
	}
	begun := time.Now()
	if by := putToTest(tests, binary, 0); by != "" {
		return fmt.Errorf("the tests fail without any mutant, in %s", by)
	}
	mutants = slices.DeleteFunc(mutants, func(m mutant) bool { return !match.MatchString(m.name()) })
	putAllToTest(tests, binary, mutants, verbose)
	return judge(mutants, only == "", time.Since(begun))
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
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(here, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		more, mutated, err := mutate(name, text, len(all))
		if err == nil {
			err = put(name, mutated)
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
	for range runtime.NumCPU() {
		work.Go(func() {
			for m := range next {
				m.killer = putToTest(tests, binary, m.id)
				if verbose {
					mu.Lock()
					fmt.Printf("%-12s %s:%d %s\n", cmp.Or(m.killer, "SURVIVES"), m.file, m.line, m.name())
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

// putToTest says what kills a mutant, "" if nothing does.
func putToTest(tests []round, binary string, id int) string {
	for _, r := range tests {
		if err := attempt(binary, id, r.limit, r.env, append([]string{"-test.run", r.run, "-test.failfast"}, r.args...)); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return r.name + " (time)"
			}
			return r.name
		}
	}
	return ""
}

func attempt(binary string, id int, limit time.Duration, env, args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	// A loop that no longer ends may take all the memory there is.
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", `ulimit -v 6000000; exec "$0" "$@"`, binary}, args...)...)
	cmd.Dir = filepath.Dir(binary)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, id))
	cmd.Env = append(cmd.Env, env...)
	err := cmd.Run()
	return cmp.Or(ctx.Err(), err)
}

// judge prints what has come of it.
func judge(mutants []mutant, all bool, took time.Duration) error {
	reasons, err := reasons()
	if err != nil {
		return err
	}
	killed, by, lives := 0, map[string]int{}, map[string]bool{}
	var unknown []string
	for _, m := range mutants {
		if m.killer != "" {
			killed++
			by[m.killer]++
			continue
		}
		lives[m.name()] = true
		why, ok := reasons[m.name()]
		if !ok {
			unknown = append(unknown, m.name())
		}
		fmt.Printf("%s/%s:%d survives: %s\n\t%s\n", dir, m.file, m.line, m.name(), cmp.Or(why, "NO REASON IS KNOWN"))
	}
	fmt.Printf("%d mutants, %d killed (%.1f %%) in %s: %v\n", len(mutants), killed, 100*float64(killed)/float64(max(len(mutants), 1)), took.Round(time.Second), by)
	var errs []error
	if killed*100 < len(mutants)*least {
		errs = append(errs, fmt.Errorf("fewer than %d of 100 mutants are killed", least))
	}
	if len(unknown) > 0 {
		errs = append(errs, fmt.Errorf("%d survivors are not in survivors.txt", len(unknown)))
	}
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		if all && !lives[name] {
			fmt.Printf("survivors.txt has %q, which does not survive any more: take it out\n", name)
		}
	}
	return errors.Join(errs...)
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
