package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// round is one run of tests.
type round struct {
	name string
	// run is the pattern of the tests; %s stands for those of its parts that a
	// mutant is put to.
	run   string
	list  func(binary string) ([]string, error) // of the parts, nil: it is one
	args  []string
	env   []string
	other bool // neither lives nor laws nor golden plans

	parts []part
}

// part is a test that can be run alone. It does the same every time, so it has
// nothing to say of a mutant that it does not ask for.
type part struct {
	name string
	took time.Duration // of the processor, without a mutant
	asks map[int]bool
}

// rounds are the tests a mutant is put to, one after the other, what is quick
// first. They are the same for every mutant and every time.
func rounds() []round {
	return []round{
		{name: "plans", run: "^TestPlans$/^(%s)$", list: plans},
		{name: "few lives", run: "^TestLives$", env: []string{"GANTRY_LIVES=150", "GANTRY_SEED=1"}},
		{name: "laws", run: "^TestLaws$", args: []string{"-rapid.checks=60", "-rapid.seed=1", "-rapid.shrinktime=1ms", "-rapid.nofailfile"}},
		{name: "lives", run: "^TestLives$", env: []string{"GANTRY_LIVES=2000", "GANTRY_SEED=151"}},
		{name: "others", run: "^(%s)$", list: others, args: []string{"-rapid.seed=1", "-rapid.nofailfile"}, other: true},
	}
}

func plans(binary string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(binary), "testdata", "*.txtar"))
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".txtar")
	}
	return files, err
}

// others are the tests of the package that no other round has. One is left out:
// TestSchedulerSurvives is to lives what a letter is to a book, and takes longer
// than all of these.
func others(binary string) ([]string, error) {
	out, err := exec.Command(binary, "-test.list", "^Test").Output()
	return slices.DeleteFunc(strings.Fields(string(out)), func(name string) bool {
		return slices.Contains([]string{"TestPlans", "TestLives", "TestLaws", "TestSchedulerSurvives"}, name)
	}), err
}

// measure puts the planner as it is to each part, which must not fail, and notes
// how long they take and which mutants they ask for.
func (r *round) measure(binary string) error {
	names := []string{""}
	if r.list != nil {
		var err error
		if names, err = r.list(binary); err != nil || len(names) == 0 {
			return fmt.Errorf("there are no tests for %s: %w", r.name, err)
		}
	}
	asked := filepath.Join(filepath.Dir(binary), "seen")
	whole := *r
	whole.env = append(slices.Clone(r.env), seen+"="+asked)
	var took time.Duration
	for _, name := range names {
		p := part{name: name, took: time.Minute, asks: map[int]bool{}}
		if err := os.WriteFile(asked, nil, 0o600); err != nil {
			return err
		}
		var err error
		if p.took, _, err = whole.try(binary, 0, []part{p}); err != nil {
			return fmt.Errorf("%s fails without any mutant: %w", strings.TrimSpace(r.name+" "+name), err)
		}
		took += p.took
		text, err := os.ReadFile(asked)
		if err != nil {
			return err
		}
		for _, id := range bytes.Fields(text) {
			n, err := strconv.Atoi(string(id))
			if err != nil {
				return err
			}
			p.asks[n] = true
		}
		r.parts = append(r.parts, p)
	}
	fmt.Printf("%s: %d tests, %s of processor time\n", r.name, len(r.parts), took.Round(time.Millisecond))
	return nil
}

// patience is how long a test may take that does not even use the processor.
const patience = 30 * time.Minute

// few is how many parts a mutant is put to before the others.
const few = 4

// attempt puts a mutant to the parts that ask for it, and says how much
// processor time they took and whether that was all they may. It returns an
// error if they fail. Those that ask for little else come first: they are about
// it.
func (r *round) attempt(binary string, id int) (took time.Duration, hangs bool, err error) {
	var parts []part
	for _, p := range r.parts {
		if p.asks[id] {
			parts = append(parts, p)
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return len(a.asks) - len(b.asks) })
	for n := few; len(parts) > 0 && err == nil; n = len(parts) {
		n = min(n, len(parts))
		var t time.Duration
		t, hangs, err = r.try(binary, id, parts[:n])
		took += t
		parts = parts[n:]
	}
	return took, hangs, err
}

// try runs tests with a mutant. Whoever needs ten times the processor time that
// they need without it hangs: what else runs on the machine does not make a
// mutant look dead.
func (r *round) try(binary string, id int, parts []part) (took time.Duration, hangs bool, err error) {
	var names []string
	limit := time.Duration(0)
	for _, p := range parts {
		names = append(names, p.name)
		limit += 10 * p.took
	}
	limit = max(limit, 5*time.Second).Truncate(time.Second)
	run := strings.Replace(r.run, "%s", strings.Join(names, "|"), 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// A loop that no longer ends may take all the memory there is.
	script := fmt.Sprintf(`ulimit -v 4000000; ulimit -t %d; exec "$0" "$@"`, int(limit.Seconds()))
	cmd := exec.CommandContext(ctx, "sh", slices.Concat([]string{"-c", script, binary, "-test.failfast", "-test.run", run}, r.args)...)
	cmd.Dir = filepath.Dir(binary)
	// The mutants run side by side, so each is content with one processor.
	cmd.Env = slices.Concat(os.Environ(), []string{fmt.Sprintf("%s=%d", variable, id), "GOMAXPROCS=1", "GOGC=400"}, r.env)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return 0, false, err
	}
	if err == nil && bytes.Contains(out, []byte("no tests to run")) {
		err = errors.New(run + " is no test")
	}
	took = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return took, took >= limit, err
}
