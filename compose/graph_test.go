package compose

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestGraph(t *testing.T) {
	p := mustLoad(t, `services:
  web:
    image: a
    depends_on:
      app: {condition: service_healthy, restart: true}
      off: {condition: service_started, required: false}
  app: {image: a, links: ["db:database"], depends_on: {migrate: {condition: service_completed_successfully}}}
  migrate: {image: a, depends_on: [db]}
  db: {image: a}
  side: {image: a, network_mode: "service:web", pid: "service:web", ipc: "service:db"}
  off: {image: a, profiles: [x]}
`)
	g, err := NewGraph(p)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ got, want any }{
		"names":   {g.Names(), []string{"app", "db", "migrate", "side", "web"}},
		"waves":   {g.Waves(), [][]string{{"db"}, {"migrate"}, {"app"}, {"web"}, {"side"}}},
		"order":   {g.Order(), []string{"db", "migrate", "app", "web", "side"}},
		"roots":   {g.Roots(), []string{"db"}},
		"leaves":  {g.Leaves(), []string{"side"}},
		"closure": {g.Closure("app"), []string{"db", "migrate", "app"}},
		"down":    {g.Reverse().Order(), []string{"side", "web", "app", "migrate", "db"}},
		"of db":   {g.Dependents("db"), []string{"app", "migrate", "side"}},
		"web": {g.Dependencies("web"), []Edge{
			{Service: "app", Condition: ConditionHealthy, Required: true, Restart: true, Via: []string{"depends_on"}}}},
		"app": {g.Dependencies("app"), []Edge{
			{Service: "db", Condition: ConditionStarted, Required: true, Restart: true, Via: []string{"links"}},
			{Service: "migrate", Condition: ConditionCompleted, Required: true, Via: []string{"depends_on"}}}},
		"side": {g.Dependencies("side"), []Edge{
			{Service: "db", Condition: ConditionStarted, Required: true, Restart: true, Via: []string{"ipc"}},
			{Service: "web", Condition: ConditionStarted, Required: true, Restart: true, Via: []string{"network_mode", "pid"}}}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestGraphLaws: an order respects every edge and lists everything once; a
// circle, if there is one, is a walk along edges that ends where it began.
func TestGraphLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 8).Draw(t, "services")
		p := &Project{Services: Services{}}
		name := func(i int) string { return fmt.Sprintf("s%d", i) }
		for i := range n {
			s := Service{Name: name(i)}
			s.DependsOn = DependsOn{}
			for range rapid.IntRange(0, 2).Draw(t, "edges") {
				s.DependsOn[name(rapid.IntRange(0, n-1).Draw(t, "to"))] = Dependency{Required: true}
			}
			p.Services[s.Name] = s
		}
		g, err := NewGraph(p)
		if err != nil {
			_, text, _ := strings.Cut(err.(*Error).Cause, ": ")
			walk := strings.Split(text, " → ")
			if len(walk) < 2 || walk[0] != walk[len(walk)-1] {
				t.Fatalf("no circle: %v", walk)
			}
			for i, from := range walk[:len(walk)-1] {
				if _, ok := p.Services[from].DependsOn[walk[i+1]]; !ok {
					t.Fatalf("%s does not depend on %s", from, walk[i+1])
				}
			}
			return
		}
		order, back := g.Order(), g.Reverse().Order()
		if len(order) != n || len(back) != n {
			t.Fatalf("%d services, order %v, reversed %v", n, order, back)
		}
		for from, s := range p.Services {
			for to := range s.DependsOn {
				if slices.Index(order, to) >= slices.Index(order, from) || slices.Index(back, from) >= slices.Index(back, to) {
					t.Fatalf("%s depends on %s: order %v, reversed %v", from, to, order, back)
				}
			}
		}
	})
}
