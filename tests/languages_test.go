package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// foreign runs a program of Docker's against the machine.
func (m *machine) foreign(dir, program string, args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := m.foreignCommand(ctx, dir, program, args...)
	r := m.runCommand(cmd)
	r.args = append([]string{program}, args...)
	return r
}

func (m *machine) foreignCommand(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(m.command(ctx, dir).Env, m.dockerEnv()...)
	return cmd
}

// compose runs Debian's docker-compose in the shop's directory.
func (s *shop) compose(args ...string) string {
	s.t.Helper()
	r := s.foreign(s.dir, composeProgram, append([]string{"--no-ansi"}, args...)...)
	if r.code != 0 {
		s.t.Fatal(r)
	}
	return r.out
}

// follows starts a program that goes on, and gives what it has written so far.
func (m *machine) follows(dir, program string, args ...string) func() string {
	m.t.Helper()
	var out lockedBuilder
	ctx, cancel := context.WithCancel(context.Background())
	cmd := m.foreignCommand(ctx, dir, program, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 5*time.Second
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { cancel(); cmd.Wait() })
	return out.String
}

// running are the names of the shop's containers that run, as docker tells.
func (s *shop) running() []string {
	s.t.Helper()
	names := strings.Fields(s.dockerOK("ps", "--filter", "label=com.docker.compose.project=shop", "--format", "{{.Names}}"))
	slices.Sort(names)
	return names
}

// Docker's language and gantry's speak of the same things.
func TestTwoLanguages(t *testing.T) {
	needs(t, dockerProgram, composeProgram)
	t.Parallel()
	s := newShop(t)
	t.Run("docker-compose makes it", func(t *testing.T) { dockerComposeMakesTheShop(t, s.with(t)) })
	t.Run("docker sees it", func(t *testing.T) { dockerSeesTheShop(t, s.with(t)) })
}

// docker-compose speaks the newest API and reads what only older ones tell.
func TestDockerComposeMakesAnew(t *testing.T) {
	needs(t, dockerProgram, composeProgram)
	t.Parallel()
	m := newMachine(t, memory())
	m.ok("image", "import", archive(t, "busybox"), "keeper", "--change", "VOLUME /kept")
	file := "services:\n  one:\n    image: keeper\n    command: sleep 1000\n    stop_grace_period: 0s\n    environment: {TURN: %q}\n"
	dir := m.project("anew", fmt.Sprintf(file, "first"))
	compose := func(args ...string) string {
		t.Helper()
		r := m.foreign(dir, composeProgram, append([]string{"--no-ansi"}, args...)...)
		if r.code != 0 {
			t.Fatal(r)
		}
		return r.out
	}
	compose("up", "-d")
	compose("exec", "-T", "one", "sh", "-c", "echo first >/kept/file")
	heard := m.follows(dir, composeProgram, "events", "--json")
	// It takes its time to begin listening, and says nothing when it does.
	eventually(t, time.Minute, "docker-compose hears of it", func() bool {
		compose("up", "-d", "--force-recreate")
		time.Sleep(500 * time.Millisecond)
		return strings.Contains(heard(), `"action": "start"`)
	})
	m.project("anew", fmt.Sprintf(file, "second"))
	compose("up", "-d")
	if out := compose("exec", "-T", "one", "sh", "-c", "cat /kept/file; echo $TURN"); out != "first\nsecond\n" {
		t.Errorf("made anew, with the volume of its image: %q", out)
	}
	compose("down", "-v")
	if out := m.dockerOK("ps", "-aq"); out != "" {
		t.Errorf("left: %q", out)
	}
}

// dockerComposeMakesTheShop brings the shop up with docker-compose and leads it
// through its life; gantry sees what it has made.
func dockerComposeMakesTheShop(t *testing.T, s *shop) {
	answers := func() {
		t.Helper()
		eventually(t, 20*time.Second, "the shop answers", func() bool {
			_, err := get(fresh(time.Second), s.url("/"))
			return err == nil
		})
	}
	s.compose("up", "-d")
	answers()
	all := []string{"shop_cache_1", "shop_db_1", "shop_front_1", "shop_web_1", "shop_web_2"}
	if got := s.running(); !slices.Equal(got, all) {
		t.Errorf("running: %v", got)
	}
	if out := s.compose("ps"); strings.Count(out, "Up (healthy)") != 4 || !strings.Contains(out, "Exit 0") {
		t.Errorf("ps: %s", out)
	}
	if out := s.compose("exec", "-T", "db", "psql", "-At", "-h", "/tmp", "-U", "shop", "shop", "-c", "select 6*7"); out != "42\n" {
		t.Errorf("exec: %q", out)
	}
	log := s.follows(s.dir, composeProgram, "--no-ansi", "logs", "-f", "--tail", "1")
	eventually(t, 20*time.Second, "logs of all services", func() bool {
		text := log()
		return !slices.ContainsFunc([]string{"db_1", "cache_1", "web_1", "web_2", "migrate_1"}, func(name string) bool { return !strings.Contains(text, name) })
	})
	before := len(log())
	s.compose("restart", "cache")
	eventually(t, 20*time.Second, "logs go on", func() bool { return strings.Contains(log()[before:], "Ready to accept connections") })

	s.compose("up", "-d", "--scale", "web=3")
	if got := s.running(); !slices.Contains(got, "shop_web_3") || len(got) != 6 {
		t.Errorf("scaled: %v", got)
	}
	s.add("apple")
	s.compose("stop")
	if got := s.running(); len(got) != 0 {
		t.Errorf("stopped: %v", got)
	}
	s.compose("start")
	answers()
	if got := s.items(); !slices.Equal(got, []string{"apple"}) {
		t.Errorf("items: %v", got)
	}

	t.Run("gantry sees it", func(t *testing.T) {
		s := s.with(t)
		if out := s.ok("ls"); !strings.Contains(out, "shop") || !strings.Contains(out, "running(6)") {
			t.Errorf("ls: %s", out)
		}
		if out := s.ok("-p", "shop", "ps"); strings.Count(out, "(healthy)") != 5 || !strings.Contains(out, "shop_web_3") {
			t.Errorf("ps: %s", out)
		}
		if out := s.ok("-p", "shop", "logs", "migrate"); !strings.Contains(out, "tables are ready") {
			t.Errorf("logs: %s", out)
		}
		if out := s.ok("-p", "shop", "exec", "-T", "cache", "redis-cli", "ping"); out != "PONG\n" {
			t.Errorf("exec: %q", out)
		}
	})
	t.Run("gantry up takes it over with its rows", func(t *testing.T) {
		s := s.with(t)
		s.up()
		if got := s.items(); !slices.Equal(got, []string{"apple"}) {
			t.Errorf("items: %v", got)
		}
		if r := s.in(s.dir, "plan"); r.code != 0 {
			t.Errorf("taken over, and there is something to do: %s", r)
		}
		s.okIn(s.dir, "down")
		s.compose("up", "-d")
		answers()
	})
	t.Run("down -v", func(t *testing.T) {
		s := s.with(t)
		s.compose("down", "-v")
		if out := s.dockerOK("ps", "-aq") + s.dockerOK("volume", "ls", "-q") + s.dockerOK("network", "ls", "-q", "--filter", "type=custom"); out != "" {
			t.Errorf("left: %q", out)
		}
	})
	t.Run("gantry down", func(t *testing.T) {
		s := s.with(t)
		s.compose("up", "-d")
		s.ok("-p", "shop", "down", "-v")
		if out := s.dockerOK("ps", "-aq") + s.dockerOK("volume", "ls", "-q") + s.dockerOK("network", "ls", "-q", "--filter", "type=custom"); out != "" {
			t.Errorf("left: %q", out)
		}
	})
}

// dockerSeesTheShop makes the shop with gantry and looks at it through Docker's
// clients. What they stop or remove is meant: it stays so until the next up.
func dockerSeesTheShop(t *testing.T, s *shop) {
	begin := time.Now().Add(-time.Second)
	s.up()
	all := []string{"shop-cache-1", "shop-db-1", "shop-front-1", "shop-web-1", "shop-web-2"}
	if got := s.running(); !slices.Equal(got, all) {
		t.Errorf("running: %v", got)
	}
	if out := s.dockerOK("ps", "-a", "--filter", "name=migrate", "--format", "{{.Names}} {{.Status}}"); !strings.HasPrefix(out, "shop-migrate-1 Exited (0)") {
		t.Errorf("the job: %s", out)
	}
	var look []struct {
		Name   string
		Config struct {
			Image  string
			Labels map[string]string
		}
		State struct {
			Status string
			Health struct{ Status string }
		}
		HostConfig struct {
			ReadonlyRootfs bool
			RestartPolicy  struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(s.dockerOK("inspect", "shop-web-1")), &look); err != nil {
		t.Fatal(err)
	}
	c := look[0]
	if c.Name != "/shop-web-1" || c.Config.Image != "shop-web" || c.Config.Labels["com.docker.compose.service"] != "web" ||
		c.State.Status != "running" || c.State.Health.Status != "healthy" || !c.HostConfig.ReadonlyRootfs || c.HostConfig.RestartPolicy.Name != "unless-stopped" {
		t.Errorf("inspect: %+v", c)
	}
	if r := s.docker("logs", "shop-migrate-1"); !strings.Contains(r.out+r.err, "tables are ready") {
		t.Errorf("logs: %s", r)
	}
	if out := s.dockerOK("stats", "--no-stream", "--format", "{{.Name}}"); len(strings.Fields(out)) != len(all) {
		t.Errorf("stats: %s", out)
	}
	events := s.dockerOK("events", "--since", begin.Format(time.RFC3339Nano), "--until", time.Now().Format(time.RFC3339Nano), "--filter", "type=container", "--format", "{{.Action}} {{.Actor.Attributes.name}}")
	for _, want := range []string{"create shop-db-1", "start shop-db-1", "health_status: healthy shop-db-1", "die shop-migrate-1", "start shop-front-1"} {
		if !slices.Contains(strings.Split(events, "\n"), want) {
			t.Errorf("%q is not among the events:\n%s", want, events)
		}
	}
	if out := s.compose("ps"); strings.Count(out, "Up (healthy)") != 4 || !strings.Contains(out, "shop-front-1") {
		t.Errorf("docker-compose ps: %s", out)
	}
	if out := s.compose("exec", "-T", "cache", "redis-cli", "ping"); out != "PONG\n" {
		t.Errorf("docker-compose exec: %q", out)
	}
	if out := s.compose("logs", "--no-color", "migrate"); !strings.Contains(out, "tables are ready") {
		t.Errorf("docker-compose logs: %s", out)
	}

	s.dockerOK("stop", "shop-front-1")
	s.dockerOK("rm", "-f", "shop-web-2")
	s.dockerOK("kill", "shop-cache-1")
	time.Sleep(2 * time.Second) // time enough for a repair
	if got := s.running(); !slices.Equal(got, []string{"shop-db-1", "shop-web-1"}) {
		t.Errorf("stopped, removed and killed by docker, and %v run", got)
	}
	if r := s.in(s.dir, "plan"); r.code != 2 || !strings.Contains(r.out, "shop-web-2") {
		t.Errorf("the plan: %s", r)
	}
	s.up()
	if got := s.running(); !slices.Equal(got, all) {
		t.Errorf("up again: %v", got)
	}
	s.compose("stop", "web")
	if got := s.running(); slices.Contains(got, "shop-web-1") || slices.Contains(got, "shop-web-2") {
		t.Errorf("stopped by docker-compose: %v", got)
	}
	s.compose("down", "-v")
	time.Sleep(time.Second)
	if out := s.dockerOK("ps", "-aq") + s.dockerOK("volume", "ls", "-q") + s.dockerOK("network", "ls", "-q", "--filter", "type=custom"); out != "" {
		t.Errorf("taken down by docker-compose, left: %q", out)
	}
}
