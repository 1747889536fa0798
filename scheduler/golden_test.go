package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"gantry/compose"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden plans anew")

// TestPlans runs the scenarios in testdata. A scenario is a txtar archive: its
// comment says what it is about, "script" is what happens, a line each,
// "plans" is every plan made on the way, and the other files are compose files.
//
//	image REF ID           an image is on the machine
//	forget REF             it is not any more
//	network|volume NAME [PROJECT]   so is a network or volume; one of no project has no key
//	behave SERVICE WHAT    see sim.behave
//	up|create FILE [flag|service]…  plan, execute, and plan again: nothing is left
//	plan FILE …            the same without executing
//	show FILE …            the same as people see it
//	down|plandown|showdown [flag|service]…
//	scale SERVICE=N…
//	stop|start SERVICE…    by the scheduler
//	exit|halt|kill|lose CONTAINER [CODE]   it ends, is stopped by a call, is dead, is gone
//	rm CONTAINER           a call removes it, which is not the scheduler's
//	lost CONTAINER         its process is gone, with the machine
//	again CONTAINER        the runtime has started it anew
//	losedata VOLUME        where its data was is nothing any more
//	losenet NETWORK        nobody knows it any more
//	gaveup CONTAINER       the runtime has given it up
//	repair                 Repair is planned, executed, and planned again
//	rise                   what the next daemon finds left to do is planned
//	copy CONTAINER         a second container with the same labels appears
//	fail PART OBJECT       that part of an action fails, until "mend"
//	wait DURATION          time passes
//	losegoal               nothing is stored any more
//	oneoff CONTAINER       makes a container one of a run
//	use NETWORK|VOLUME WHO a container of somebody else's uses it
//	mount CONTAINER VOLUME  it has a volume of its own
//	leave NETWORK          nobody else does any more
func TestPlans(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newStory(t, ar)
			s.play()
			if *update {
				s.write(ar, file)
				return
			}
			if d := cmp.Diff(s.files["plans"], s.out.String()); d != "" {
				t.Errorf("plans (-want +got; -update writes them anew):\n%s", d)
			}
			if err := s.untouched(); err != nil {
				t.Error(err)
			}
			if len(s.w.broken) > 0 {
				t.Error(s.w.broken)
			}
		})
	}
}

// story plays one scenario.
type story struct {
	t         *testing.T
	w         *sim
	files     map[string]string
	untouched func() error
	stored    *Goal
	was       *compose.Project // the last that was brought about
	out       bytes.Buffer
}

func newStory(t *testing.T, ar *txtar.Archive) *story {
	s := &story{t: t, w: newSim(), files: map[string]string{}}
	s.untouched = s.w.foreign()
	for _, f := range ar.Files {
		s.files[f.Name] = string(f.Data)
	}
	return s
}

func (s *story) write(ar *txtar.Archive, file string) {
	var files []txtar.File
	for _, f := range ar.Files {
		if f.Name != "plans" {
			files = append(files, f)
		}
	}
	ar.Files = append(files, txtar.File{Name: "plans", Data: s.out.Bytes()})
	if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *story) play() {
	for line := range strings.Lines(s.files["script"]) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		s.do(strings.TrimSpace(line), words[0], words[1:])
	}
}

func (s *story) do(line, verb string, args []string) {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch verb {
	case "image":
		s.w.image(args[0], args[1])
	case "forget":
		delete(s.w.images, s.w.images[args[0]])
		delete(s.w.images, args[0])
	case "network":
		s.w.networks["n-"+args[0]] = &Network{ID: "n-" + args[0], Name: args[0], Project: arg(1)}
	case "volume":
		s.w.volumes[args[0]] = &Volume{Name: args[0], Project: arg(1)}
		if arg(1) != "" {
			s.w.volumes[args[0]].Key = "data"
		}
	case "use": // by a container that is not the project's
		if n := s.w.networkNamed(args[0]); n != nil {
			n.Others = append(n.Others, args[1])
		} else {
			s.w.volumes[args[0]].Others = append(s.w.volumes[args[0]].Others, args[1])
		}
	case "mount": // a volume of its own
		c := s.w.named(args[0])
		c.Volumes = append(c.Volumes, args[1])
	case "leave":
		s.w.networkNamed(args[0]).Others = nil
	case "behave":
		s.w.behave[args[0]] = strings.Join(args[1:], " ")
	case "fail":
		part, object := args[0], args[1]
		s.w.fault = func(p, o string) error {
			if p == part && o == object {
				return fmt.Errorf("it was told to fail")
			}
			return nil
		}
	case "wait":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			s.t.Fatal(err)
		}
		s.w.clock = s.w.clock.Add(d)
	case "losegoal":
		s.stored, s.was = nil, nil
	case "mend":
		s.w.fault = nil
	case "rm":
		s.w.byCall(args[0])
	case "losedata":
		s.w.volumes[args[0]].Lost = "/volumes/" + args[0]
	case "losenet":
		delete(s.w.networks, s.w.networkNamed(args[0]).ID)
	case "repair":
		s.repair(line)
	case "rise":
		plan, err := Reconcile(*s.stored, s.w.look(*s.stored))
		if err != nil {
			s.t.Fatal(err)
		}
		s.say("> %s\n%s\n", line, plan)
	case "exit", "halt", "kill", "lose", "lost", "again", "gaveup", "copy", "oneoff", "pause":
		s.happen(verb, s.w.named(args[0]), arg(1))
	case "up", "create", "plan", "show":
		s.step(line, verb == "up" || verb == "create", s.goal(args[0], args[1:], verb == "create"))
	case "down", "plandown", "showdown":
		s.step(line, verb == "down", DownGoal("shop", s.options(args)))
	case "scale", "stop", "start":
		g := s.stored.clone()
		g.Options = s.options(nil)
		for _, a := range args {
			name, n, _ := strings.Cut(a, "=")
			w := g.Services[name]
			if verb == "scale" {
				w.Replicas, _ = strconv.Atoi(n)
				g.Options.Scaled = append(g.Options.Scaled, name)
			} else {
				w.Stopped = verb == "stop"
			}
			g.Services[name] = w
			g.Scope = append(g.Scope, name)
		}
		s.step(line, true, g)
	default:
		s.t.Fatalf("script: %s", line)
	}
}

func (s *story) happen(verb string, c *Container, arg string) {
	if c == nil {
		s.t.Fatalf("%s: no such container", verb)
	}
	s.w.clock = s.w.clock.Add(1e6)
	switch verb {
	case "exit":
		code, _ := strconv.Atoi(arg)
		s.w.exit(c, code)
	case "halt":
		s.w.exit(c, 143)
		c.Stopped = true
	case "pause":
		c.Status = Paused
	case "kill":
		c.Status = Dead
	case "lost":
		s.w.exit(c, 255)
		c.Lost = true
	case "again":
		c.Status, c.StartedAt = Running, s.w.clock
	case "gaveup":
		c.GaveUp = "is unhealthy"
	case "lose":
		delete(s.w.containers, c.ID)
	case "oneoff":
		c.OneOff = true
	case "copy":
		twin := *c
		twin.ID, twin.Name, twin.Created = "twin-"+c.Name, "twin_"+c.Name, s.w.clock
		s.w.containers[twin.ID] = &twin
	}
}

func (s *story) options(args []string) Options {
	var o Options
	for _, a := range args {
		switch a {
		case "--force-recreate":
			o.Recreate = Always
		case "--always-recreate-deps":
			o.RecreateDependencies = Always
		case "--no-recreate":
			o.Recreate, o.RecreateDependencies = Never, Never
		case "--no-deps":
			o.NoDeps = true
		case "--no-start":
			o.NoStart = true
		case "--remove-orphans":
			o.RemoveOrphans = true
		case "--renew-volumes":
			o.RenewVolumes = true
		case "--wait":
			o.Wait = true
		case "-V":
			o.RenewAnonVolumes = true
		case "-v":
			o.Volumes = true
		case "--rmi=all", "--rmi=local":
			o.RemoveImages = strings.TrimPrefix(a, "--rmi=")
		default:
			if strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--profile=") {
				s.t.Fatalf("unknown flag %s", a)
			} else if !strings.HasPrefix(a, "-") {
				o.Services = append(o.Services, a)
			}
		}
	}
	return o
}

func (s *story) goal(file string, args []string, create bool) Goal {
	text, ok := s.files[file]
	if !ok {
		s.t.Fatalf("no file %s", file)
	}
	p, err := load(text, func(src *compose.Source) {
		src.Environ = []string{"TOKEN=" + file}
		for _, a := range args {
			if name, ok := strings.CutPrefix(a, "--profile="); ok {
				src.Profiles = append(src.Profiles, name)
			}
		}
	})
	if err != nil {
		s.t.Fatalf("%s: %v", file, err)
	}
	o := s.options(args)
	o.NoStart = o.NoStart || create
	g, err := NewGoal(p, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

// readsTheSame checks that a plan that has travelled as JSON prints as before.
func (s *story) readsTheSame(plan Plan) {
	data, err := json.Marshal(plan)
	if err != nil {
		s.t.Fatal(err)
	}
	var told Plan
	if err := json.Unmarshal(data, &told); err != nil {
		s.t.Fatal(err)
	}
	if d := cmp.Diff(plan.Text()+plan.String(), told.Text()+told.String()); d != "" {
		s.t.Errorf("as JSON the plan says something else (-want +got):\n%s", d)
	}
}

// asideID is the id in the name of a container that was set aside: which one it
// is depends on who was made first.
var asideID = regexp.MustCompile(`\bc\d{4}_`)

func (s *story) say(format string, args ...any) {
	s.out.WriteString(asideID.ReplaceAllString(fmt.Sprintf(format, args...), "ID_"))
}

// step plans for a goal; if act is set it executes the plan and checks that
// nothing is left, unless something was told to fail.
func (s *story) step(line string, act bool, asked Goal) {
	s.say("> %s\n", line)
	goals := []Goal{asked}
	if s.stored != nil {
		goals = append(goals, *s.stored)
	}
	have := s.w.look(goals...)
	g := Merge(s.stored, asked, have)
	if s.stored != nil {
		have.Was = s.was
		if s.stored.Project != s.was {
			have.Tried = s.stored.Project
		}
	}
	plan, err := Reconcile(g, have)
	if err != nil {
		s.say("refused: %v\n\n", err)
		return
	}
	if strings.HasPrefix(line, "show") {
		s.say("%s\n", plan.Text())
		s.readsTheSame(plan)
		return
	}
	s.say("%s\n", plan)
	if !act {
		return
	}
	failed := false
	if err := Execute(context.Background(), s.w, plan, nil); err != nil {
		s.say("failed: %v\n\n", err)
		failed = true
	}
	s.stored = &g
	if !failed {
		s.was = g.Project
	}
	have = s.w.look(goals...)
	again, err := Reconcile(g, have)
	switch {
	case err != nil:
		s.t.Errorf("%s: the plan after it: %v", line, err)
	case failed:
		s.say("left:\n%s\n", again)
	case !again.Empty():
		s.t.Errorf("%s: after it there is left:\n%s", line, again)
	}
}

// repair plans what Repair does, does it, and plans again: nothing is left.
func (s *story) repair(line string) {
	fmt.Fprintf(&s.out, "> %s\n", line)
	plan, problems, err := Repair(*s.stored, s.w.look(*s.stored), time.Time{})
	if err != nil {
		fmt.Fprintf(&s.out, "refused: %v\n\n", err)
		return
	}
	fmt.Fprint(&s.out, plan)
	for _, text := range problems {
		fmt.Fprintf(&s.out, "problem: %s\n", text)
	}
	fmt.Fprintln(&s.out)
	if err := Execute(context.Background(), s.w, plan, nil); err != nil {
		fmt.Fprintf(&s.out, "failed: %v\n\n", err)
		return
	}
	again, _, err := Repair(*s.stored, s.w.look(*s.stored), time.Time{})
	if err != nil || !again.Empty() {
		s.t.Errorf("%s: after it there is left: %v\n%s", line, err, again)
	}
}
