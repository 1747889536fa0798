package scheduler

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"gantry/compose"
)

// large is a project of n services in chains of ten, on one network.
func large(n, replicas int) *compose.Project {
	p := &compose.Project{Name: "shop", Services: compose.Services{}, Networks: compose.Networks{"default": {}}}
	for i := range n {
		s := compose.Service{Name: fmt.Sprintf("s%04d", i), Scale: &replicas}
		s.DependsOn = compose.DependsOn{}
		s.Image, s.Networks = "busybox", map[string]*compose.ServiceNetwork{"default": nil}
		s.Environment = compose.MappingWithEquals{}
		for j := range 10 {
			v := fmt.Sprint(j)
			s.Environment["VARIABLE_"+v] = &v
		}
		if i%10 > 0 {
			s.DependsOn[fmt.Sprintf("s%04d", i-1)] = compose.Dependency{Condition: compose.ConditionStarted, Required: true}
		}
		p.Services[s.Name] = s
	}
	return p
}

// BenchmarkReconcile plans for 1,000 services with 10 replicas each: none of
// which is there, all of which are there, which is then looked at again, and all
// of which have changed.
func BenchmarkReconcile(b *testing.B) {
	p := large(1000, 10)
	asked, err := NewGoal(p, Options{})
	if err != nil {
		b.Fatal(err)
	}
	w := newSim()
	w.image("busybox", "sha256:1")
	have := w.look(asked)
	goal := Merge(nil, asked, have)
	fresh, err := Reconcile(goal, have)
	if err != nil || len(fresh.Steps) != 10001 {
		b.Fatal(len(fresh.Steps), err)
	}
	run := func(name string, goal Goal, have State, steps int) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			begun := processor()
			for b.Loop() {
				if name != "again" {
					goal.outline = nil // it is planned for the first time
				}
				plan, err := Reconcile(goal, have)
				if err != nil || len(plan.Steps) != steps {
					b.Fatalf("%d steps, %v", len(plan.Steps), err)
				}
			}
			b.ReportMetric(float64((processor()-begun).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
	run("fresh", goal, have, 10001)
	if err := Execute(context.Background(), w, fresh, nil); err != nil {
		b.Fatal(err)
	}
	have = w.look(goal)
	run("no-op", goal, have, 0)
	run("again", goal.outlined(), have, 0)
	have.Was = p
	changed := goal.clone()
	for name, s := range changed.Project.Services {
		v := "changed"
		s.Environment = compose.MappingWithEquals{"VARIABLE_1": &v}
		changed.Project.Services[name] = s
	}
	run("change", changed, have, 24000) // in batches of three: replace, await, retire
	run("down", Merge(&goal, DownGoal("shop", Options{}), have), have, 10001)
}

// processor is the time this process has had of one, which others that run do
// not lengthen.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkExecute walks a plan of 10,000 steps that take no time.
func BenchmarkExecute(b *testing.B) {
	asked, err := NewGoal(large(1000, 10), Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		w := newSim()
		w.image("busybox", "sha256:1")
		have := w.look(asked)
		plan, err := Reconcile(Merge(nil, asked, have), have)
		if err != nil {
			b.Fatal(err)
		}
		for i := range plan.Steps {
			plan.Steps[i].Do = nothing{}
		}
		begun := time.Now()
		if err := Execute(context.Background(), w, plan, nil); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms/walk")
	}
}

type nothing struct{}

func (nothing) What() What                        { return What{} }
func (nothing) String() string                    { return "nothing" }
func (nothing) run(context.Context, Engine) error { return nil }
