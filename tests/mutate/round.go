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
	limit time.Duration // of processor time
}

// part is a test that can be run alone. It does the same every time, so it has
// nothing to say of a mutant that it does not ask for.
type part struct {
	name string
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

// others are the tests of the package that no other round has.
func others(binary string) ([]string, error) {
	out, err := exec.Command(binary, "-test.list", "^Test").Output()
	return slices.DeleteFunc(strings.Fields(string(out)), func(name string) bool {
		return slices.Contains([]string{"TestPlans", "TestLives", "TestLaws", "TestSchedulerSurvives"}, name)
	}), err
}

// measure puts the planner as it is to each part, which must not fail, and notes
// how long they take and which mutants they ask for. Whoever needs ten times the
// processor time hangs: what else runs on the machine does not make a mutant
// look dead.
func (r *round) measure(binary string) error {
	names := []string{""}
	if r.list != nil {
		var err error
		if names, err = r.list(binary); err != nil || len(names) == 0 {
			return fmt.Errorf("there are no tests for %s: %w", r.name, err)
		}
	}
	r.limit = 10 * time.Minute
	asked := filepath.Join(filepath.Dir(binary), "seen")
	whole := *r
	whole.env = append(slices.Clone(r.env), seen+"="+asked)
	var took time.Duration
	for _, name := range names {
		whole.parts = []part{{name, map[int]bool{0: true}}}
		if err := os.WriteFile(asked, nil, 0o600); err != nil {
			return err
		}
		t, err := whole.attempt(binary, 0)
		if err != nil {
			return fmt.Errorf("%s fails without any mutant: %w", strings.TrimSpace(r.name+" "+name), err)
		}
		took += t
		text, err := os.ReadFile(asked)
		if err != nil {
			return err
		}
		p := part{name, map[int]bool{}}
		for _, id := range bytes.Fields(text) {
			n, err := strconv.Atoi(string(id))
			if err != nil {
				return err
			}
			p.asks[n] = true
		}
		r.parts = append(r.parts, p)
	}
	r.limit = max(10*took, 10*time.Second).Round(time.Second)
	fmt.Printf("%s: %d tests, %s of processor time; a mutant may take %s\n", r.name, len(r.parts), took.Round(time.Millisecond), r.limit)
	return nil
}

// patience is how long a test may take that does not even use the processor.
const patience = 30 * time.Minute

// few is how many parts a mutant is put to before the others.
const few = 4

// attempt puts a mutant to the parts that ask for it, and says how much
// processor time they took. It returns an error if they fail. Those that ask
// for little else come first: they are about it.
func (r *round) attempt(binary string, id int) (took time.Duration, err error) {
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
		t, err = r.try(binary, id, parts[:n])
		took += t
		parts = parts[n:]
	}
	return took, err
}

func (r *round) try(binary string, id int, parts []part) (time.Duration, error) {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	run := strings.Replace(r.run, "%s", strings.Join(names, "|"), 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// A loop that no longer ends may take all the memory there is.
	script := fmt.Sprintf(`ulimit -v 4000000; ulimit -t %d; exec "$0" "$@"`, int(r.limit.Seconds()))
	cmd := exec.CommandContext(ctx, "sh", slices.Concat([]string{"-c", script, binary, "-test.failfast", "-test.run", run}, r.args)...)
	cmd.Dir = filepath.Dir(binary)
	// The mutants run side by side, so each is content with one processor.
	cmd.Env = slices.Concat(os.Environ(), []string{fmt.Sprintf("%s=%d", variable, id), "GOMAXPROCS=1", "GOGC=400"}, r.env)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return 0, err
	}
	if err == nil && bytes.Contains(out, []byte("no tests to run")) {
		err = errors.New(run + " is no test")
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}
