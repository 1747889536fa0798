package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gantry/scheduler"

	"github.com/google/go-cmp/cmp"
)

// step is an event of a container's step.
func step(verb, kind, name string, p scheduler.Progress) scheduler.Event {
	return scheduler.Event{What: scheduler.What{Verb: verb, Kind: kind, Name: name}, Progress: p}
}

// story is a small up in which something fails.
func story() []scheduler.Event {
	failed := step("run", "container", "shop-web-1", scheduler.StepFailed)
	failed.Err = errors.New("port 80 is in use\nby nginx")
	mild := step("remove", "image", "shop-old", scheduler.StepFailed)
	mild.Err, mild.Optional = errors.New("in use"), true
	return []scheduler.Event{
		{Plan: &scheduler.Plan{Project: "shop", Notes: []string{"volume rows stays as it is"}}},
		step("create", "network", "shop_edge", scheduler.StepStarted),
		step("create", "network", "shop_edge", scheduler.StepDone),
		step("run", "container", "shop-db-1", scheduler.StepStarted),
		step("run", "container", "shop-db-1", scheduler.StepDone),
		step("await", "service", "db", scheduler.StepStarted),
		step("run", "container", "shop-web-1", scheduler.StepStarted),
		failed,
		mild,
		{Plan: &scheduler.Plan{Project: "shop", Notes: []string{"volume rows stays as it is"}}},
		step("replace", "container", "shop-cache-1", scheduler.StepStarted),
		step("run", "container", "shop-front-1", scheduler.StepSkipped),
	}
}

func TestPlainProgress(t *testing.T) {
	var b strings.Builder
	var notes []string
	p := &plainProgress{w: &b, notes: func(n string) { notes = append(notes, n) }}
	for _, e := range story() {
		p.event(e)
	}
	p.close()
	want := ` Network shop_edge  Creating
 Network shop_edge  Created
 Container shop-db-1  Starting
 Container shop-db-1  Started
 Service db  Waiting
 Container shop-web-1  Starting
 Container shop-web-1  Error: port 80 is in use by nginx
 Image shop-old  Warning: in use
 Container shop-cache-1  Recreating
 Container shop-front-1  Skipped
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"volume rows stays as it is"}, notes); d != "" {
		t.Error("a note is told once:", d)
	}
}

// A container that is removed is stopped first, and that may take its time.
// Where nothing is done, that is said.
func TestWording(t *testing.T) {
	var b strings.Builder
	a := &app{err: &b, out: &b, env: func(string) string { return "" }}
	for _, title := range []string{"up", "stop"} {
		err := a.changed(title, "shop", func(report func(scheduler.Event)) error {
			report(scheduler.Event{Plan: &scheduler.Plan{Project: "shop"}})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := a.changed("scale", "shop", func(report func(scheduler.Event)) error {
		e := step("remove", "container", "shop-web-2", scheduler.StepStarted)
		report(e)
		e.What.Name, e.What.Stops = "shop-web-3", true
		report(e)
		e.Progress = scheduler.StepDone
		report(e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := ` Project shop  Up to date
 Project shop  Stopped
 Container shop-web-2  Removing
 Container shop-web-3  Stopping
 Container shop-web-3  Removed
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestJSONProgress(t *testing.T) {
	var b bytes.Buffer
	p := &jsonProgress{enc: json.NewEncoder(&b)}
	for _, e := range story() {
		p.event(e)
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		var l jsonLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, strings.Join([]string{l.ID, l.Status, l.Text, l.Details}, "|"))
	}
	want := []string{
		"Project shop|Warning|Note|volume rows stays as it is",
		"Network shop_edge|Working|Creating|", "Network shop_edge|Done|Created|",
		"Container shop-db-1|Working|Starting|", "Container shop-db-1|Done|Started|",
		"Service db|Working|Waiting|", "Container shop-web-1|Working|Starting|",
		"Container shop-web-1|Error|Error|port 80 is in use by nginx", "Image shop-old|Warning|Warning|in use",
		"Container shop-cache-1|Working|Recreating|", "Container shop-front-1|Warning|Skipped|",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A second of the story passes with each event.
func TestBoard(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := board{title: "up", begun: now}
	for _, e := range story() {
		now = now.Add(time.Second)
		b.apply(e, now)
	}
	want := `[+] up 2/7
 ✔ Network shop_edge       Created     1.0s
 ✔ Container shop-db-1     Started     1.0s
 ⠼ Service db              Waiting     6.4s
 ✘ Container shop-web-1    Error       1.0s  port 80 is in use by nginx
 ! Image shop-old          Warning     0.0s  in use
 ⠼ Container shop-cache-1  Recreating  1.4s
 - Container shop-front-1  Skipped     0.0s
`
	now = now.Add(400 * time.Millisecond)
	if d := cmp.Diff(want, strings.Join(b.frame(80, 24, now), "\n")+"\n"); d != "" {
		t.Error(d)
	}
	// On a low and narrow screen what is at work comes before what failed, and
	// what failed before what is done.
	want = `[+] up 2/7
 ⠼ Service db              Waiting     6.4s
 ✘ Container shop-web-1    Error       1.0s  p…
 ⠼ Container shop-cache-1  Recreating  1.4s
   … and 4 more
`
	if d := cmp.Diff(want, strings.Join(b.frame(47, 6, now), "\n")+"\n"); d != "" {
		t.Error(d)
	}
}

// A plan announces what is still to come, and a later one does not forget what
// has been.
func TestBoardCountsThePlan(t *testing.T) {
	var plan scheduler.Plan
	text := `{"project":"p","steps":[{"id":1,"verb":"run","kind":"container","name":"a","text":"run a","why":"x"},
		{"id":2,"verb":"run","kind":"container","name":"b","text":"run b","why":"x"}]}`
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		t.Fatal(err)
	}
	var b board
	now := time.Unix(0, 0)
	b.apply(scheduler.Event{Plan: &plan}, now)
	b.apply(step("run", "container", "a", scheduler.StepStarted), now)
	b.apply(step("run", "container", "a", scheduler.StepDone), now)
	b.apply(scheduler.Event{Plan: &plan}, now)
	if got := b.frame(80, 24, now); len(got) != 2 || got[0] != "[+] 1/2" {
		t.Errorf("got %q", got)
	}
}

// Whatever the size of the terminal, a frame fits.
func TestFramesFit(t *testing.T) {
	now := time.Unix(0, 0)
	b := board{title: "up", colour: false, begun: now}
	for i := range 40 {
		name := fmt.Sprintf("project-with-a-long-name-service-%d", i)
		b.apply(step("run", "container", name, scheduler.StepStarted), now)
		if i%3 == 0 {
			e := step("run", "container", name, scheduler.StepFailed)
			e.Err = errors.New(strings.Repeat("très long ", 30))
			b.apply(e, now)
		}
	}
	for width := 1; width < 120; width += 7 {
		for height := 1; height < 60; height += 5 {
			lines := b.frame(width, height, now.Add(time.Minute))
			if len(lines) >= max(height, 4) {
				t.Errorf("%d×%d: %d lines", width, height, len(lines))
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > width {
					t.Errorf("%d×%d: %q is %d wide", width, height, l, n)
				}
			}
		}
	}
	if lines := b.frame(80, 0, now); len(lines) != 41 {
		t.Errorf("the last frame has %d lines, want all 41", len(lines))
	}
}

func TestProgressIsChosen(t *testing.T) {
	for _, tt := range []struct {
		mode, ansi string
		env        map[string]string
		want       string
	}{
		{"auto", "auto", nil, "*cli.plainProgress"}, // a buffer is no terminal
		{"plain", "auto", nil, "*cli.plainProgress"},
		{"tty", "auto", nil, "*cli.ttyProgress"},
		{"tty", "never", nil, "*cli.plainProgress"},
		{"json", "auto", nil, "*cli.jsonProgress"},
		{"quiet", "auto", nil, "cli.quietProgress"},
	} {
		a := &app{err: &bytes.Buffer{}, out: &bytes.Buffer{}, env: func(n string) string { return tt.env[n] }, progress: tt.mode, ansi: tt.ansi}
		p := a.newProgress("up")
		p.close()
		if got := fmt.Sprintf("%T", p); got != tt.want {
			t.Errorf("%s/%s: got %s, want %s", tt.mode, tt.ansi, got, tt.want)
		}
	}
	var out, errs bytes.Buffer
	a := &app{err: &errs, out: &out, env: func(n string) string { return map[string]string{"COMPOSE_STATUS_STDOUT": "1"}[n] }}
	a.newProgress("up").event(step("run", "container", "a", scheduler.StepDone))
	if out.String() != " Container a  Started\n" || errs.Len() > 0 {
		t.Errorf("COMPOSE_STATUS_STDOUT: got %q and %q", out.String(), errs.String())
	}
}
