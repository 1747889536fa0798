package tests

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Three projects are brought up, updated, scaled, rolled back and taken down at
// random, several at once, and at a random moment of it something is killed or
// lost: the daemon, the keeper, a container's process, a link, the rules of the
// network. Each time the calls, made again, bring about what they ask for, every
// service answers, and the log of a writer in a volume has each number once. In
// the end nothing is left on the host.
//
// `make test` has eight such rounds; `make chaos` as many as GANTRY_CHAOS says.
func TestChaos(t *testing.T) {
	rounds := 8
	if text := os.Getenv("GANTRY_CHAOS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatalf("GANTRY_CHAOS: %v", err)
		}
	} else {
		t.Parallel()
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("GANTRY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("GANTRY_SEED: %v", err)
		}
	}
	t.Logf("seed %d (GANTRY_SEED repeats its choices)", seed)
	c := newChaos(newMachine(t), rand.New(rand.NewPCG(seed, 0)))
	begun, done := time.Now(), 0
	defer func() { // also of those before the one that failed
		t.Logf("%d of %d losses in %s: %s\nduring calls: %s\nmade again because of it: %s\nthe writer has written %d numbers",
			done, rounds, time.Since(begun).Round(time.Second), counts(c.losses), counts(c.calls), counts(c.again), c.wrote)
	}()
	for ; done < rounds && !t.Failed(); done++ {
		c.round()
	}
	c.finish()
}

// chaos is a machine with three projects, and what is expected of them.
type chaos struct {
	*machine
	rnd      *rand.Rand
	projects []*stack
	clean    snapshot

	losses, calls, again map[string]int
	wrote                int // numbers, by the writer
}

// stack is one of the projects, as it was last asked for.
type stack struct {
	name    string
	dir     string
	text    string // of its compose file: %[1]d is the edition
	scaled  string // the service whose replicas change
	always  int    // how many other containers run while it is up
	port    int    // at which its web answers while it is up
	up      bool
	edition int
	n       int // replicas of scaled
	// revisions are those one can go back to, and what they are.
	revisions map[int][2]int
}

const (
	// keepLog goes on where the log ends, a line at a time.
	keepLog = `sh -c 'trap "exit 0" TERM; i=$$(tail -n 1 /data/log 2>/dev/null); while :; do i=$$((i+1)); echo $$i >> /data/log; usleep 5000; done'`
	serve   = `sh -c 'mkdir /www; echo here > /www/index.html; exec httpd -f -p 80 -h /www'`
	idle    = `sh -c 'trap "exit 0" TERM; while :; do sleep 1000 & wait $$!; done'`
)

func newChaos(m *machine, rnd *rand.Rand) *chaos {
	c := &chaos{machine: m, rnd: rnd, losses: map[string]int{}, calls: map[string]int{}, again: map[string]int{}}
	ports := []int{freePort(m.t), 0, freePort(m.t)}
	c.projects = []*stack{
		{name: "log", scaled: "web", always: 1, port: ports[0], text: `
services:
  writer:
    image: busybox
    command: ` + keepLog + `
    environment: {EDITION: "%[1]d"}
    restart: always
    volumes: ["data:/data"]
  web:
    image: busybox
    command: ` + serve + `
    stop_signal: KILL
    environment: {EDITION: "%[1]d"}
    restart: always
    ports: ["` + strconv.Itoa(ports[0]) + `:80"]
    depends_on: [writer]
volumes: {data: {}}
`},
		{name: "chain", scaled: "api", always: 2, text: `
services:
  db:
    image: busybox
    command: ` + idle + `
    restart: always
    healthcheck: {test: ["CMD", "true"], interval: 1s}
    volumes: ["state:/state"]
    networks: [back]
  job:
    image: busybox
    command: "true"
    environment: {EDITION: "%[1]d"}
    depends_on: {db: {condition: service_healthy}}
  api:
    image: busybox
    command: ` + idle + `
    environment: {EDITION: "%[1]d"}
    restart: always
    networks: [back]
    depends_on: {db: {condition: service_healthy}, job: {condition: service_completed_successfully}}
  edge:
    image: busybox
    command: ` + idle + `
    restart: always
    networks: [back, default]
    depends_on: {api: {condition: service_started}}
networks: {back: {internal: true}}
volumes: {state: {}}
`},
		{name: "crowd", scaled: "web", port: ports[2], text: `
services:
  web:
    image: busybox
    command: ` + serve + `
    stop_signal: KILL
    environment: {EDITION: "%[1]d"}
    restart: always
    ports: ["` + strconv.Itoa(ports[2]) + `:80"]
`},
	}
	for _, p := range c.projects {
		p.n = 1
		p.dir = m.project(p.name, fmt.Sprintf(p.text, 0))
		m.okIn(p.dir, "up", "-d")
		m.okIn(p.dir, "down", "-v")
	}
	c.clean = m.snapshot()
	return c
}

// round makes one to three calls at once, has something lost meanwhile, and
// then sees to it that what was asked for comes true.
func (c *chaos) round() {
	order := c.rnd.Perm(len(c.projects))
	var asked []func() (string, result)
	for _, i := range order[:1+c.rnd.IntN(len(order))] {
		asked = append(asked, c.call(c.projects[i]))
	}
	loss := c.loss()
	pause := time.Duration(c.rnd.IntN(400)) * time.Millisecond
	var work sync.WaitGroup
	results, verbs := make([]result, len(asked)), make([]string, len(asked))
	for i, call := range asked {
		work.Go(func() { verbs[i], results[i] = call() })
	}
	time.Sleep(pause)
	loss()
	work.Wait()
	for i, r := range results {
		c.calls[verbs[i]]++
		for tries := 0; r.code != 0; tries++ {
			if tries > 1 {
				c.t.Fatalf("made again without a loss: %s", r)
			}
			c.again[verbs[i]]++
			_, r = asked[i]()
		}
	}
	for _, p := range c.projects {
		c.check(p)
		c.remember(p)
	}
}

// remember notes what the newest revision of a project is. A history ends with
// its project.
func (c *chaos) remember(p *stack) {
	if !p.up {
		p.revisions = map[int][2]int{}
		return
	}
	var all []struct {
		Revision int
		Kept     bool // and done
	}
	if err := json.Unmarshal([]byte(c.okIn(p.dir, "history", "--format", "json")), &all); err != nil {
		c.t.Fatal(err)
	}
	known := p.revisions
	p.revisions = map[int][2]int{}
	for i, r := range all {
		was, ok := known[r.Revision]
		switch {
		case !r.Kept:
		case ok:
			p.revisions[r.Revision] = was
		case i == 0:
			p.revisions[r.Revision] = [2]int{p.edition, p.n}
		}
	}
}

// call draws a call about a project and returns what makes it, as often as need
// be.
func (c *chaos) call(p *stack) func() (string, result) {
	verb, args := "up", []string{"up", "-d"}
	switch k := c.rnd.IntN(9); {
	case !p.up || k < 2:
	case k < 4:
		p.edition++
		verb = "update"
	case k < 6:
		p.n = 1 + c.rnd.IntN(4)
		verb, args = "scale", []string{"scale", fmt.Sprintf("%s=%d", p.scaled, p.n)}
	case k < 7:
		verb, args = "down", []string{"down", "-t", "2"}
	case k < 8 && len(p.revisions) > 1:
		numbers := slices.Sorted(maps.Keys(p.revisions))
		to := numbers[c.rnd.IntN(len(numbers))]
		p.edition, p.n = p.revisions[to][0], p.revisions[to][1]
		verb, args = "rollback", []string{"rollback", "--to", strconv.Itoa(to)}
	default:
		verb, args = "restart", []string{"restart", "-t", "2"}
	}
	if p.up = verb != "down"; verb == "up" || verb == "update" {
		args = append(args, "--scale", fmt.Sprintf("%s=%d", p.scaled, p.n))
		write(c.t, filepath.Join(p.dir, "compose.yaml"), fmt.Sprintf(p.text, p.edition))
	}
	return func() (string, result) { return verb, c.in(p.dir, args...) }
}

// loss draws something to be killed or lost.
func (c *chaos) loss() func() {
	kinds := []string{"daemon", "keeper", "both", "process", "process", "link", "rules"}
	kind := kinds[c.rnd.IntN(len(kinds))]
	c.losses[kind]++
	victim := c.rnd.Int()
	return func() {
		switch kind {
		case "daemon":
			c.slay("gantryd")
		case "keeper":
			c.slay("gantry-runtime")
		case "both":
			c.slay("gantryd", "gantry-runtime")
		case "process":
			if pids := c.processes(); len(pids) > 0 {
				exec.Command("kill", "-9", pids[victim%len(pids)]).Run() // it may have ended by now
			}
		case "link":
			if links := c.snapshot()["link"]; len(links) > 0 {
				exec.Command("ip", "link", "del", filepath.Base(links[victim%len(links)])).Run()
			}
		case "rules":
			exec.Command("nft", "delete", "table", "ip", "gantry-"+c.tag).Run()
		}
	}
}

// slay kills programs, of which there may be none at the moment.
func (c *chaos) slay(names ...string) {
	for _, name := range names {
		for _, pid := range c.pids(name) {
			exec.Command("kill", "-9", strconv.Itoa(pid)).Run()
		}
	}
}

// processes are those in the cgroups of the machine's containers.
func (c *chaos) processes() []string {
	var all []string
	for _, dir := range c.snapshot()["cgroup"] {
		if len(filepath.Base(dir)) != 64 {
			continue // not a container's
		}
		data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		all = append(all, strings.Fields(string(data))...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// check holds a project to what was asked for.
func (c *chaos) check(p *stack) {
	c.t.Helper()
	want := 0
	if p.up {
		want = p.always + p.n
	}
	got := ""
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(30 * time.Millisecond) {
		if got = c.wrong(p, want); got == "" {
			break
		}
		if time.Now().After(end) {
			c.t.Fatalf("project %s (up %t, edition %d, %s=%d): %s\n%s", p.name, p.up, p.edition, p.scaled, p.n, got, c.in(p.dir, "ps", "-a"))
		}
	}
	all := c.written()
	c.wrote = max(c.wrote, len(all))
	if err := wholeFrom(all); err != nil || len(all) > 0 && all[0] != 1 {
		c.t.Fatalf("the writer's log: it begins with %d; %v", all[0], err)
	}
}

// wrong says in what a project is not as was asked for.
func (c *chaos) wrong(p *stack, want int) string {
	r := c.in(p.dir, "ps", "-q", "--status", "running")
	if n := len(strings.Fields(r.out)); r.code != 0 || n != want {
		return fmt.Sprintf("%d containers run, %d are wanted: %s", n, want, r.err)
	}
	if p.up && p.port != 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", p.port), nil)
		if err != nil {
			return err.Error()
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
	}
	return ""
}

// written is the writer's log.
func (c *chaos) written() []int {
	data, err := os.ReadFile(filepath.Join(c.root, "volumes", "log_data", "_data", "log"))
	if err != nil {
		return nil
	}
	var all []int
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			n = -1
		}
		all = append(all, n)
	}
	return all
}

// finish takes the projects down and looks for what is left.
func (c *chaos) finish() {
	for _, p := range c.projects {
		c.okIn(p.dir, "down", "-v", "-t", "2")
	}
	var left string
	for range 100 {
		if left = c.snapshot().minus(c.clean).without("process"); left == "" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if left != "" {
		c.t.Errorf("left behind after down:\n%s", left)
	}
	if dirs := c.leftovers(); len(dirs) > 0 {
		c.t.Errorf("directories left: %v", dirs)
	}
}

// counts is "3 daemon, 1 keeper", the most frequent first.
func counts(m map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(m[b]-m[a], strings.Compare(a, b)) })
	var texts []string
	for _, k := range keys {
		texts = append(texts, fmt.Sprintf("%d %s", m[k], k))
	}
	return cmp.Or(strings.Join(texts, ", "), "none")
}
